package media

import (
	"io"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
)

// maxProperty bounds what a page says of itself in one property, in bytes.
const maxProperty = 1000

// wantedProperties are what is taken from a page as it is.
var wantedProperties = map[string]bool{
	"og:title": true, "og:type": true, "og:url": true, "og:description": true, "og:site_name": true,
}

// readPage finds what a page says of itself in its head, and the address of its image.
func readPage(r io.Reader) (p *Preview, image string) {
	p = &Preview{map[string]any{}}
	set := func(name, value string) {
		if value = shorten(value); value != "" && p.Properties[name] == nil {
			p.Properties[name] = value
		}
	}
	var title, description string
	tokens := html.NewTokenizer(r)
	tokens.SetMaxBuf(maxPage)
loop:
	for {
		switch kind := tokens.Next(); kind {
		case html.ErrorToken: // the end, or something endless
			break loop
		case html.StartTagToken, html.SelfClosingTagToken:
			token := tokens.Token()
			switch token.Data {
			case "body":
				break loop
			case "title":
				if title == "" && tokens.Next() == html.TextToken {
					title = tokens.Token().Data
				}
			case "meta":
				name, content := metaOf(token)
				switch {
				case wantedProperties[name]:
					set(name, content)
				case (name == "og:image" || name == "og:image:url" || name == "og:image:secure_url") && image == "":
					image = strings.TrimSpace(content)
				case name == "description" && description == "":
					description = content
				}
			}
		}
	}
	set("og:title", title)
	set("og:description", description)
	return p, image
}

func metaOf(token html.Token) (name, content string) {
	for _, a := range token.Attr {
		switch a.Key {
		case "property", "name":
			if name == "" {
				name = strings.ToLower(strings.TrimSpace(a.Val))
			}
		case "content":
			content = a.Val
		}
	}
	return name, content
}

// shorten makes one line of a text, of bounded length.
func shorten(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " ")
	if len(s) <= maxProperty {
		return s
	}
	cut := maxProperty
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
