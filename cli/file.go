package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/securecomm/securecomm/cli/client"
	"github.com/securecomm/securecomm/e2ee/attachment"
	"github.com/securecomm/securecomm/homeserver/id"
	"github.com/spf13/cobra"
)

// maxFile bounds a file in either direction, in bytes: it is held in memory.
const maxFile = 256 << 20

// fileMessage is the content of a message that carries a file: an encrypted one in File, else in URL.
type fileMessage struct {
	MsgType  string           `json:"msgtype"`
	Body     string           `json:"body"`
	FileName string           `json:"filename,omitempty"`
	URL      string           `json:"url,omitempty"`
	File     *attachment.File `json:"file,omitempty"`
	Info     struct {
		Size     int64  `json:"size"`
		MimeType string `json:"mimetype,omitempty"`
	} `json:"info"`
}

func (a *app) upload() *cobra.Command {
	var kind sendKind
	var name string
	cmd := &cobra.Command{
		Use:   "upload ROOM FILE",
		Short: "Send a file",
		Long: "Sends a file; FILE may be - for standard input. In an encrypted room the file is encrypted\n" +
			"here, under a key of its own that only the message carries; the servers learn its size only.",
		Example: "  securecomm upload '!abc:one.example' plan.pdf\n  tar c notes | securecomm upload '!abc:one.example' - --name notes.tar",
		Args:    argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := a.readFile(args[1])
			if err != nil {
				return err
			}
			if name == "" {
				name = filepath.Base(args[1])
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				ctx := cmd.Context()
				room, err := s.roomNow(ctx, args[0])
				if err != nil {
					return err
				}
				m, err := s.upload(ctx, room, name, data, kind.options())
				if err != nil {
					return err
				}
				return a.show(m, nil)
			})
		},
	}
	kind.flags(cmd)
	cmd.Flags().StringVar(&name, "name", "", "what to call it (default: the name of FILE)")
	return cmd
}

// upload sends a file into a room, encrypted if the room is.
func (s *session) upload(ctx context.Context, room id.RoomID, name string, data []byte, options sendOptions) (message, error) {
	facts, err := s.facts(ctx, room)
	if err != nil {
		return message{}, err
	}
	content := describeFile(name, data)
	if facts.Encrypted {
		var sealed bytes.Buffer
		file, err := attachment.Encrypt(&sealed, bytes.NewReader(data))
		if err != nil {
			return message{}, err
		}
		// Neither name nor type: they are part of the encrypted message.
		if file.URL, err = s.client.Upload(ctx, sealed.Bytes(), "application/octet-stream", ""); err != nil {
			return message{}, err
		}
		content.File = &file
	} else if content.URL, err = s.client.Upload(ctx, data, content.Info.MimeType, name); err != nil {
		return message{}, err
	}
	return s.send(ctx, room, "m.room.message", client.NewTxnID(), content, options)
}

func (a *app) readFile(name string) ([]byte, error) {
	in := io.Reader(a.in)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("opening the file: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the file: %w", err)
	}
	if len(data) > maxFile {
		return nil, fail(exitUsage, "split it", "the file is larger than %d bytes", maxFile)
	}
	return data, nil
}

func describeFile(name string, data []byte) fileMessage {
	content := fileMessage{MsgType: "m.file", Body: name, FileName: name}
	content.Info.Size = int64(len(data))
	content.Info.MimeType = mime.TypeByExtension(filepath.Ext(name))
	if content.Info.MimeType == "" {
		content.Info.MimeType = http.DetectContentType(data)
	}
	switch general, _, _ := strings.Cut(content.Info.MimeType, "/"); general {
	case "image", "video", "audio":
		content.MsgType = "m." + general
	}
	return content
}

func (a *app) download() *cobra.Command {
	var output string
	var force bool
	cmd := &cobra.Command{
		Use:   "download ROOM EVENT",
		Short: "Fetch a file from a message, and decrypt it",
		Long: "Fetches the file of a message, checks that it is unchanged, decrypts it and writes it,\n" +
			"readable by you only. It never writes over a file unless you say --force.",
		Example: "  securecomm download '!abc:one.example' '$event'\n  securecomm download '!abc:one.example' '$event' --output - | less",
		Args:    argCount(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			event, err := id.ParseEventID(args[1])
			if err != nil {
				return err
			}
			return a.withSession(cmd.Context(), func(s *session) error {
				ctx := cmd.Context()
				room, err := s.roomNow(ctx, args[0])
				if err != nil {
					return err
				}
				e, err := s.client.Event(ctx, room, event)
				if err != nil {
					return err
				}
				if err := s.learnSenders(ctx, []client.Event{e}); err != nil {
					return err
				}
				messages, err := s.decodeAll(ctx, room, []client.Event{e})
				if err != nil {
					return err
				}
				return s.save(ctx, messages[0], output, force)
			})
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "where to write it, - for standard output (default: the file's own name, here)")
	cmd.Flags().BoolVar(&force, "force", false, "write over an existing file")
	return cmd
}

// save writes the file of a message, and says so; without an output it goes by its own name.
func (s *session) save(ctx context.Context, m message, output string, force bool) error {
	if m.undecryptable {
		return fail(exitUnsafe, "ask the sender to send it again, or restore your key backup", "the message can't be decrypted: %s", m.Reason)
	}
	data, content, err := s.fetch(ctx, m)
	if err != nil {
		return err
	}
	if output == "" {
		output = fileName(content)
	}
	if err := s.app.writeFile(output, data, force); err != nil || output == "-" {
		return err
	}
	return s.app.answer(map[string]any{"file": output, "size": len(data), "sender": m.Sender, "encrypted": m.Encrypted, "trust": m.Trust, "reason": m.Reason},
		"Wrote %s (%d bytes).  %s", safeLine(output), len(data), s.app.lock(m))
}

// fileName is the name that a message gives its file, without anything that leads elsewhere.
func fileName(content fileMessage) string {
	name := orElse(content.FileName, content.Body)
	if i := strings.LastIndexAny(name, `/\`); i >= 0 {
		name = name[i+1:]
	}
	name = strings.TrimLeft(safeLine(name), ".-")
	if name == "" || len(name) > 200 {
		return "download"
	}
	return name
}

func (a *app) writeFile(name string, data []byte, force bool) error {
	if name == "-" {
		return a.pour(data)
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(name, mode, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fail(exitFailure, "name another file with --output, or say --force", "%s exists", safeLine(name))
	}
	if err != nil {
		return fmt.Errorf("creating the file: %w", err)
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return fmt.Errorf("writing the file: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing the file: %w", err)
	}
	return nil
}

// parseFile reads the content of a message that carries a file.
func parseFile(m message) (fileMessage, error) {
	var content fileMessage
	if m.Kind == "edit" {
		m = m.newContent()
	}
	if m.Kind != "file" || json.Unmarshal(m.Content, &content) != nil || content.File == nil && content.URL == "" {
		return fileMessage{}, fail(exitFailure, `"securecomm read" shows which messages carry files`, "the message carries no file")
	}
	return content, nil
}

// fetch downloads the file of a message and decrypts it.
func (s *session) fetch(ctx context.Context, m message) ([]byte, fileMessage, error) {
	content, err := parseFile(m)
	if err != nil {
		return nil, fileMessage{}, err
	}
	if content.File == nil && m.Encrypted {
		return nil, fileMessage{}, fail(exitUnsafe, "ask the sender to send it again, encrypted; nothing was fetched", "the message is encrypted, but its file is not")
	}
	if content.File == nil {
		data, err := s.client.Download(ctx, content.URL, maxFile)
		return data, content, err
	}
	sealed, err := s.client.Download(ctx, content.File.URL, maxFile)
	if err != nil {
		return nil, fileMessage{}, err
	}
	var data bytes.Buffer
	if err := attachment.Decrypt(&data, bytes.NewReader(sealed), *content.File); err != nil {
		return nil, fileMessage{}, fail(exitUnsafe, "ask the sender to send it again; nothing was written", "%w", err)
	}
	return data.Bytes(), content, nil
}
