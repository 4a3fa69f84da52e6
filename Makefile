# All targets need Go and nothing else. TESTFLAGS and BENCHFLAGS are passed on to go test.

TESTFLAGS  ?= -timeout 20m
BENCHFLAGS ?= -benchtime 1s
GOFILES     = find . -name '*.go' -not -path '*/node_modules/*' -not -path './.*/*'

.PHONY: build run demo test bench budget lint fmt clean

# One static binary. -buildvcs=false: it must also build where git does not trust the folder's owner.
build:
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/securecomm ./cli/securecomm

# A server to try out, on the embedded database: http://localhost:8008, data in .securecomm-dev.
run: build
	./bin/securecomm serve --dev

# Two servers, two people, one encrypted conversation.
demo: build
	go run ./cli/demo -bin bin/securecomm

# On SQLite always; on PostgreSQL too if SECURECOMM_TEST_POSTGRES names an empty database.
test:
	go test $(TESTFLAGS) ./...

bench:
	go test -run '^$$' -bench . -benchmem $(BENCHFLAGS) ./...

# What one PUT /send runs through, counted.
budget:
	SECURECOMM_TEST_BUDGET=1 go test -count=1 -run '^TestSendBudget$$' -v ./homeserver

lint:
	@unformatted=$$($(GOFILES) -exec gofmt -l {} +); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go test -count=1 -run '^TestStyle' ./homeserver

fmt:
	$(GOFILES) -exec gofmt -w {} +

clean:
	rm -rf bin
