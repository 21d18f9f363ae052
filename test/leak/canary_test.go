package leak_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// canary is a random text that stands in a secret. It is made of capitals and digits, which no encoder escapes.
type canary string

func newCanary() canary { return canary(rand.Text()) }

// partLength is how much of a canary is searched for: whoever prints the beginning or the end of a secret leaks too.
const partLength = 12

// forms returns what the beginning and the end of c look like in the hands of careless code: form → text.
func (c canary) forms() map[string]string {
	all := map[string]string{}
	for name, part := range map[string]string{"beginning": string(c[:partLength]), "end": string(c[len(c)-partLength:])} {
		all[name] = part
		all[name+" in lower case"] = strings.ToLower(part)
		all[name+" reversed"] = reverse(part)
		all[name+" in hex"] = hex.EncodeToString([]byte(part))
		all[name+" in HEX"] = strings.ToUpper(hex.EncodeToString([]byte(part)))
		all[name+" as numbers"] = strings.Trim(fmt.Sprint([]byte(part)), "[]")
		for before := range 3 {
			all[name+" in base64, "+strconv.Itoa(before)] = base64Core(part, before)
		}
	}
	return all
}

func reverse(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// base64Core is what is the same in every base64 text of something that holds part after before bytes, modulo 3.
func base64Core(part string, before int) string {
	text := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + part))
	first := (before*8 + 5) / 6 // characters that hold bits of what is before
	if (before+len(part))%3 != 0 {
		text = text[:len(text)-1] // it holds bits of what comes after
	}
	return text[first:]
}

// leaks returns which canaries are in data, and how.
func leaks(planted map[string]canary, data []byte) []string {
	var found []string
	for kind, c := range planted {
		for form, text := range c.forms() {
			if bytes.Contains(data, []byte(text)) {
				found = append(found, kind+", "+form)
			}
		}
	}
	slices.Sort(found)
	return found
}

// TestSearchFinds shows that the search of the other tests can find something.
func TestSearchFinds(t *testing.T) {
	c := newCanary()
	secret := "x/" + string(c) + "&"
	for name, text := range map[string]string{
		"plain":          secret,
		"quoted":         fmt.Sprintf("%q", secret),
		"URL-encoded":    url.QueryEscape(secret),
		"a prefix":       secret[:2+partLength],
		"a suffix":       secret[len(secret)-1-partLength:],
		"hex":            fmt.Sprintf("%x", secret),
		"upper-case hex": fmt.Sprintf("%X", secret),
		"bytes":          fmt.Sprint([]byte(secret)),
		"reversed":       reverse(secret),
		"base64, 0":      base64.StdEncoding.EncodeToString([]byte("123" + c)),
		"base64, 1":      base64.StdEncoding.EncodeToString([]byte("1234" + c)),
		"base64, 2":      base64.URLEncoding.EncodeToString([]byte("12345" + c)),
	} {
		if len(leaks(map[string]canary{"a": c}, []byte(text))) == 0 {
			t.Errorf("the canary is not found in its form %s", name)
		}
	}
	if found := leaks(map[string]canary{"a": c}, []byte(rand.Text()+rand.Text())); found != nil {
		t.Errorf("a canary is found where none is: %v", found)
	}
}
