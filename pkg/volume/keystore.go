package volume

import (
	"path"

	"go.yaml.in/yaml/v3"

	"github.com/keywell/keywell/pkg/keystore"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// The files of FormatTLS, which have the names that Kubernetes gives the fields of such a Secret.
const (
	tlsCert = "tls.crt"
	tlsKey  = "tls.key"
	tlsCA   = "ca.crt"
)

var tlsFiles = []string{tlsCert, tlsKey, tlsCA}

// Password is the password of a key store: a text of the volume's attributes, or a field of a secret.
type Password struct {
	Text  string
	Ref   scope.Ref // with Field
	Field string    // empty: it is Text
}

// isKeystore tells whether f looks for keys and certificates in the fields.
func (f Format) isKeystore() bool { return f == FormatTLS || f == FormatPEM || f.hasPassword() }

func (f Format) hasPassword() bool { return f == FormatPKCS12 || f == FormatJKS }

// checkPassword says what is wrong with the item's password, or with having none.
func (it Item) checkPassword() string {
	switch {
	case it.Format.hasPassword() && it.Password == nil:
		return "format " + string(it.Format) + " needs a password; write one, or {name, field} of a secret that holds it"
	case !it.Format.hasPassword() && it.Password != nil:
		return "only formats pkcs12 and jks have a password"
	}
	return ""
}

// password reads a text, or a field of a secret.
func (p *parser) password(n *yaml.Node) *Password {
	if n.Kind == yaml.ScalarNode {
		return &Password{Text: p.text(n, "password")}
	}
	pw := Password{Field: "password"}
	p.mapping(n, "password", members{
		"name":      func(n *yaml.Node) { pw.Ref.Name = p.text(n, "name") },
		"store":     func(n *yaml.Node) { pw.Ref.Store = p.text(n, "store") },
		"version":   func(n *yaml.Node) { pw.Ref.Version = p.text(n, "version") },
		"stage":     func(n *yaml.Node) { pw.Ref.Stage = p.text(n, "stage") },
		"namespace": func(n *yaml.Node) { pw.Ref.Namespace = p.text(n, "namespace") },
		"field":     func(n *yaml.Node) { pw.Field = p.text(n, "field") },
	})
	return &pw
}

// passwordOf returns the item's password. payloads are those of its sources.
func (it Item) passwordOf(payloads []*providers.Payload) (string, bool) {
	if it.Password.Field == "" {
		return it.Password.Text, true
	}
	value, ok := payloads[1].Fields[it.Password.Field]
	return string(value.Reveal()), ok
}

// keystore writes the private key and certificates that are in fields.
func (p *projection) keystore(it Item, fields []selected) {
	texts := make([][]byte, len(fields))
	for i, f := range fields {
		texts[i] = f.value.Reveal()
	}
	bundle, err := keystore.Parse(texts)
	if err != nil {
		p.reportf(it, "format %s: %v", it.Format, err)
		return
	}
	switch it.Format {
	case FormatTLS:
		for name, data := range map[string][]byte{tlsCert: bundle.ChainPEM(), tlsKey: bundle.KeyPEM(), tlsCA: bundle.CAPEM()} {
			if len(data) > 0 {
				p.file(it, path.Join(it.Path, name), it.Mode, secret.New(data))
			}
		}
	case FormatPEM:
		p.file(it, it.Path, it.Mode, secret.New(bundle.PEM()))
	case FormatPKCS12:
		p.locked(it, bundle.PKCS12)
	case FormatJKS:
		p.locked(it, bundle.JKS)
	}
}

// locked writes a key store with the item's password.
func (p *projection) locked(it Item, encode func(password string) ([]byte, error)) {
	password, ok := it.passwordOf(p.own)
	if !ok {
		p.reportf(it, "format %s: the secret with the password has no field %q", it.Format, it.Password.Field)
		return
	}
	data, err := encode(password)
	if err != nil {
		p.reportf(it, "format %s: %v", it.Format, err)
		return
	}
	p.file(it, it.Path, it.Mode, secret.New(data))
}
