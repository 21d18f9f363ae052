package providers

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/secret"
)

// Properties are a store's metadata with every secretKeyRef and envRef resolved: lower-case name → value. They may
// hold credentials, hence the type.
type Properties map[string]secret.Value

// Decode returns a Decoder of p for the names that declared lists, usually a Driver's Properties. A required property
// that is missing or empty is an error from the start.
func (p Properties) Decode(declared []Property) *Decoder {
	d := &Decoder{values: p, declared: declared}
	for _, prop := range declared {
		if prop.Required && d.find(prop).Len() == 0 {
			d.fail(prop.Name, "is required")
		}
	}
	return d
}

// Decoder reads typed values out of Properties and collects what is wrong with them, so that a driver reads all of its
// properties in a row and asks Err once.
//
// A property is looked up by its canonical name, in any case: its own value first, then its aliases in the order of
// the declaration. An empty value counts as not set, as in Dapr. Reading a name that is not declared is an error, which
// keeps a driver's table and what it reads from drifting apart. A Decoder is for one goroutine.
type Decoder struct {
	values   Properties
	declared []Property
	problems []string
}

// Secret returns the value of name as it stands; empty if not set.
func (d *Decoder) Secret(name string) secret.Value {
	for _, prop := range d.declared {
		if strings.EqualFold(prop.Name, name) {
			return d.find(prop)
		}
	}
	d.fail(name, "is read by the driver but not declared by it")
	return secret.Value{}
}

// String returns the value of name as text, for properties that are not secret.
func (d *Decoder) String(name, fallback string) string {
	if v := d.Secret(name); v.Len() > 0 {
		return string(v.Reveal())
	}
	return fallback
}

// Truthy returns the value of name as Dapr reads booleans: y, yes, true, t, on and 1 in any case are true, everything
// else is false (dapr/kit utils.IsTruthy).
func (d *Decoder) Truthy(name string, fallback bool) bool {
	switch strings.ToLower(strings.TrimSpace(d.String(name, ""))) {
	case "":
		return fallback
	case "y", "yes", "true", "t", "on", "1":
		return true
	default:
		return false
	}
}

// Int returns the value of name as a decimal number.
func (d *Decoder) Int(name string, fallback int) int {
	text := d.String(name, "")
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		d.fail(name, "is not a whole number such as 10")
		return fallback
	}
	return n
}

// Duration returns the value of name as a Go duration.
func (d *Decoder) Duration(name string, fallback time.Duration) time.Duration {
	text := d.String(name, "")
	if text == "" {
		return fallback
	}
	v, err := time.ParseDuration(text)
	if err != nil {
		d.fail(name, "is not a duration such as 30s or 5m")
		return fallback
	}
	return v
}

// URL returns the value of name as the address of a service: a scheme, http or https, and a host. Nil: it is not set. The
// example is for the error.
func (d *Decoder) URL(name, example string) *url.URL {
	text := d.String(name, "")
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		d.fail(name, "is not a URL such as "+example)
		return nil
	}
	return u
}

// Err returns nil, or an Error of Kind Invalid that names every faulty property. No value is quoted.
func (d *Decoder) Err() error {
	if len(d.problems) == 0 {
		return nil
	}
	return Errorf(Invalid, "metadata %s", strings.Join(d.problems, "; "))
}

// find returns the first value of prop that is not empty.
func (d *Decoder) find(prop Property) secret.Value {
	v := d.values[strings.ToLower(prop.Name)]
	for _, alias := range prop.Aliases {
		if v.Len() > 0 {
			break
		}
		v = d.values[strings.ToLower(alias)]
	}
	return v
}

func (d *Decoder) fail(name, problem string) {
	d.problems = append(d.problems, fmt.Sprintf("field %q %s", name, problem))
}
