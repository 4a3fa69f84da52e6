package homeserver

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"sync"
)

//go:embed page.html
var pageText string

// pageTemplate is what a browser sees at the server's address, and the policy that lets it have its style and nothing
// else: no scripts, no frames, nothing of elsewhere.
var pageTemplate = sync.OnceValues(func() (*template.Template, string) {
	_, rest, _ := strings.Cut(pageText, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return template.Must(template.New("page").Parse(pageText)), policy
})

// page says to people what this is.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "this is a page", http.StatusMethodNotAllowed)
		return
	}
	c := s.Config
	page, policy := pageTemplate()
	var text bytes.Buffer
	err := page.Execute(&text, map[string]any{
		"Name": string(c.Server.Name), "Address": c.BaseURL(), "Open": c.Registration.Enabled && !c.Registration.RequireToken,
		"Page": c.WellKnown.SupportPage, "Email": c.WellKnown.SupportEmail,
	})
	if err != nil {
		s.Log.Error("the page for browsers cannot be made", "err", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(text.Bytes())
}
