package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/template"
)

// Spec is what a volume's attributes ask for; ParseSpec makes one.
type Spec struct {
	Items           []Item        // at least one, unless Socket, Plugin or Localhost is set
	Mode            fs.FileMode   // of what has no mode of its own; 0: 0444, or 0440 if the files have a group
	UID, GID        int           // owner of the files; -1: not set
	Size            int64         // limit for the files, in bytes; 0: the Set's MaxVolumeBytes
	RefreshInterval time.Duration // how often to read the secrets again; 0: as the stores say
	Socket          bool          // the volume has sockets for API calls
	Plugin          bool          // the volume has a socket for a daprd
	Class           string        // the SecretProviderClass that one of Items is; empty: none
	Localhost       bool          // the pod is to have listeners in its network namespace; nothing of them is in the volume
}

// Item is one entry of a volume: one secret, or a file that a template makes of several.
type Item struct {
	Ref      scope.Ref
	Path     string // a file, or with FormatFiles the directory of the fields' files, where "." is the volume itself
	Format   Format
	Mode     fs.FileMode // 0: 0444, or 0440 if the files have a group
	Encoding Encoding    // of every field that has none of its own
	Optional bool        // a secret, or a listed field, that does not exist is left out
	Fields   []Field     // the fields wanted, with their file names or keys; empty: all

	Password *Password // of FormatPKCS12 and FormatJKS; nil: none

	Parameters map[string]string // what the store is told besides: request metadata, arguments of a path
	Own        bool              // what the store issues is not shared with other volumes

	// Template is not nil if the file is what it makes of Secrets; then Ref, Format, Encoding and Fields are empty, and
	// Optional leaves the file out if there is no secret of which the template can't do without.
	Template *template.Template
	Secrets  []Source // in the order of their names
}

// Source is one secret of which an item is made.
type Source struct {
	As       string // by which a template knows it, or "password"; empty for the one secret of an item
	Ref      scope.Ref
	Optional bool // it need not exist

	Parameters map[string]string // see Item
	Own        bool
}

func (s Source) String() string { return Item{Ref: s.Ref}.String() }

// Sources returns the secrets of all items, in their order: what has to be authorised and read.
func (s Spec) Sources() []Source {
	all := make([]Source, 0, s.count())
	for i := range s.Items {
		all = s.Items[i].appendSources(all)
	}
	return all
}

// ClassStore is the name of the store that a SecretProviderClass is, in its namespace.
func ClassStore(class string) string { return "secretproviderclass:" + class }

// itemOf returns the item of a SecretProviderClass: all of its files, where its provider puts them.
func itemOf(class string) Item {
	return Item{Ref: scope.Ref{Store: ClassStore(class), Name: class}, Path: ".", Format: FormatFiles}
}

// count is how many Sources there are.
func (s Spec) count() (n int) {
	for i := range s.Items {
		n += s.Items[i].count()
	}
	return n
}

func (it *Item) count() int {
	switch {
	case it.Template != nil:
		return len(it.Secrets)
	case it.hasPasswordField():
		return 2
	default:
		return 1
	}
}

func (it *Item) hasPasswordField() bool { return it.Password != nil && it.Password.Field != "" }

func (it *Item) appendSources(all []Source) []Source {
	if it.Template == nil {
		all = append(all, Source{Ref: it.Ref, Optional: it.Optional, Parameters: it.Parameters, Own: it.Own})
		if it.hasPasswordField() {
			all = append(all, Source{As: "password", Ref: it.Password.Ref})
		}
		return all
	}
	for _, s := range it.Secrets {
		s.Optional = s.Optional || it.Optional
		all = append(all, s)
	}
	return all
}

// reads tells whether the item reads a secret of store; an empty name stands for any.
func (it Item) reads(store, name string) bool {
	matches := func(ref scope.Ref) bool { return ref.Store == store && (name == "" || ref.Name == name) }
	return matches(it.Ref) || it.Password != nil && matches(it.Password.Ref) ||
		slices.ContainsFunc(it.Secrets, func(s Source) bool { return matches(s.Ref) })
}

// Field is one field of an item.
type Field struct {
	Name     string
	Path     string      // file below Item.Path (FormatFiles), or key (FormatJSON, FormatDotenv); empty: Name
	Mode     fs.FileMode // FormatFiles only; 0: the item's
	Encoding Encoding    // empty: the item's
}

// Format says how the fields of a secret become files.
type Format string

// The formats.
const (
	// FormatFiles writes each field to a file of its own, <path>/<field>. A secret's only field, if it is named as the
	// secret and has no path of its own, is written to the file <path>.
	FormatFiles Format = "files"
	// FormatRaw writes the bytes of the secret's only field, or of the one listed field, to the file <path>.
	FormatRaw Format = "raw"
	// FormatJSON writes one JSON object of strings, with sorted keys and a final line feed, to the file <path>.
	FormatJSON Format = "json"
	// FormatDotenv writes lines of KEY='value', sorted, to the file <path>. A shell, godotenv and Docker Compose read the
	// same values back. Values for which that can't be had (with a NUL, a carriage return, a final backslash, or a single
	// quote together with a backquote or a final double quote) are refused.
	FormatDotenv Format = "dotenv"
	// FormatTLS, FormatPEM, FormatPKCS12 and FormatJKS find a private key and certificates in the fields. FormatTLS
	// writes what there is of <path>/tls.crt (the certificate and its chain), <path>/tls.key and <path>/ca.crt; FormatPEM
	// the certificate, its chain and the key to the file <path>; the others a key store, or without a key a trust store.
	FormatTLS    Format = "tls"
	FormatPEM    Format = "pem"
	FormatPKCS12 Format = "pkcs12"
	FormatJKS    Format = "jks"
)

var formats = []string{
	string(FormatFiles), string(FormatRaw), string(FormatJSON), string(FormatDotenv),
	string(FormatTLS), string(FormatPEM), string(FormatPKCS12), string(FormatJKS),
}

// Encoding says how a value is written in the store.
type Encoding string

// EncodingBase64 is standard base64 (RFC 4648, section 4), with padding or without, in any number of lines.
const EncodingBase64 Encoding = "base64"

func (it Item) owner() pathOwner {
	if it.Template != nil {
		return pathOwner{words: fmt.Sprintf("template %q", it.Path)}
	}
	return pathOwner{store: it.Ref.Store, name: it.Ref.Name}
}

func (it Item) String() string { return it.owner().String() }

// isFile tells whether f, the only field that the item selects, is the file Item.Path rather than one below it.
func (it Item) isFile(f Field) bool { return f.Name == it.Ref.Name && f.Path == "" && it.Path != "." }

// fieldPath is where FormatFiles puts f, one of the count fields that the item selects.
func (it Item) fieldPath(f Field, count int) string {
	if count == 1 && it.isFile(f) {
		return it.Path
	}
	return path.Join(it.Path, f.key())
}

// key is the name of f's file or key.
func (f Field) key() string {
	if f.Path != "" {
		return f.Path
	}
	return f.Name
}

// check finds everything that is wrong with the item and can be known before the secret is read.
func (it Item) check(paths *pathSet) (problems []string) {
	report := func(format string, args ...any) {
		problems = append(problems, it.String()+": "+fmt.Sprintf(format, args...))
	}
	var room [2]Source
	for _, s := range it.appendSources(room[:0]) {
		of := ""
		if s.As != "" {
			of = "its secret ." + s.As + ": "
		}
		if s.Ref.Name == "" {
			report("%sit has no name", of)
		}
		if s.Ref.Store == "" {
			report("%sit has no store; set the volume attribute store, or store of the item", of)
		}
	}
	if problem := it.checkPassword(); problem != "" {
		report("%s", problem)
	}
	if it.Path == "." && it.Format != FormatFiles && it.Format != FormatTLS {
		report(`path "." is a directory, and format %s writes a file`, it.Format)
	} else if err := checkPath(it.Path); err != nil && it.Path != "." {
		report("path %q %v; set path of the item", it.Path, err)
	}
	if it.Format == FormatRaw && len(it.Fields) > 1 {
		report("format raw writes one field, and %d are listed", len(it.Fields))
	}
	keys := map[string]bool{}
	for _, f := range it.Fields {
		if f.Name == "" {
			report("a field has no name")
		}
		if keys[f.key()] {
			report("two fields are named %q; set path of one of them", f.key())
		}
		keys[f.key()] = true
		if err := it.checkField(f); err != nil {
			report("field %q: %v", f.Name, err)
		}
	}
	if len(problems) > 0 {
		return problems
	}
	for p := range it.declaredPaths() {
		if err := paths.add(p, it.owner()); err != nil {
			problems = append(problems, err.Error()+"; set path of one of them")
		}
	}
	return problems
}

// checkField checks a listed field, or one that a store returned.
func (it Item) checkField(f Field) error {
	switch {
	case it.Format != FormatFiles && f.Mode != 0:
		return errors.New("only format files has a mode per field")
	case (it.Format == FormatRaw || it.Format.isKeystore()) && f.Path != "":
		return fmt.Errorf("format %s has no path per field; set path of the item", it.Format)
	case it.Format == FormatDotenv && !isVariable(f.key()):
		return fmt.Errorf("%q is not the name of a variable; list the field with a path that is one", f.key())
	case it.Format == FormatJSON && !utf8.ValidString(f.key()):
		return fmt.Errorf("%q is not text; list the field with another path", f.key())
	case it.Format == FormatFiles:
		if err := checkPath(f.key()); err != nil {
			return fmt.Errorf("path %q %w; list the field with another path", f.key(), err)
		}
	}
	return nil
}

// declaredPaths are the paths that are known before the secret is read. Without listed fields, the item's directory
// stands for all that it may hold, except that the volume itself can be shared.
func (it Item) declaredPaths() iter.Seq[string] {
	return func(yield func(string) bool) {
		if it.Format == FormatTLS {
			for _, name := range tlsFiles {
				if !yield(path.Join(it.Path, name)) {
					return
				}
			}
			return
		}
		if it.Format != FormatFiles || len(it.Fields) == 0 {
			if it.Path != "." {
				yield(it.Path)
			}
			return
		}
		for _, f := range it.Fields {
			if !yield(it.fieldPath(f, len(it.Fields))) {
				return
			}
		}
	}
}
