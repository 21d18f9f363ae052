package volume

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/template"
)

// File is one file of a volume.
type File struct {
	Path string // relative to the volume; see ParseSpec for its form
	Mode fs.FileMode
	Data secret.Value
}

// Project lays secrets out as files, in the order of their paths. payloads[i] is what the store returned for
// Sources()[i], nil if the store has no such secret and it is optional. What a store returned is checked like the
// attributes were: its field names may be hostile. The error is an *InvalidError with all problems, or a
// *providers.Error with Kind NotFound for the first listed field that is missing.
func (s Spec) Project(payloads []*providers.Payload) ([]File, error) {
	p := projection{spec: s, paths: s.paths(), files: make([]File, 0, len(s.Items)), budget: template.NewBudget()}
	for _, it := range s.Items {
		own := payloads[:it.count()]
		payloads = payloads[len(own):]
		if it.Template != nil {
			p.template(it, own)
		} else if own[0] != nil {
			p.own = own
			if err := p.item(it, own[0].Fields); err != nil {
				return nil, err
			}
		}
	}
	if len(p.problems) > 0 {
		return nil, &InvalidError{Problems: p.problems}
	}
	slices.SortFunc(p.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return p.files, nil
}

// projection is a Project under way.
type projection struct {
	spec   Spec
	files  []File
	paths  pathSet
	budget *template.Budget // of all templates

	own      []*providers.Payload // of the item at hand
	all      []Field              // the memory of the last item's, for the next
	selected []selected           // likewise
	problems []string
}

// template makes the file of a template. It is left out if a secret is that the template needs.
func (p *projection) template(it Item, payloads []*providers.Payload) {
	secrets := make(map[string]map[string]secret.Value, len(payloads))
	for i, s := range it.Secrets {
		switch {
		case payloads[i] != nil:
			secrets[s.As] = payloads[i].Fields
		case s.Optional:
			secrets[s.As] = nil
		default:
			return
		}
	}
	data, err := it.Template.Execute(secrets, p.budget)
	if err != nil {
		p.reportf(it, "%v", err)
		return
	}
	p.file(it, it.Path, it.Mode, data)
}

// selected is a field with its decoded value.
type selected struct {
	Field
	value secret.Value
}

func (p *projection) item(it Item, payload map[string]secret.Value) error {
	wanted := it.Fields
	if len(wanted) == 0 {
		p.all = appendFields(slices.Grow(p.all[:0], len(payload)), payload)
		wanted = p.all
	}
	fields := slices.Grow(p.selected[:0], len(wanted))
	ok := true
	for _, f := range wanted {
		v, found := payload[f.Name]
		if !found && it.Optional {
			continue
		}
		if !found {
			err := providers.Errorf(providers.NotFound, "it has no field %q", f.Name)
			err.Store, err.Name = it.Ref.Store, it.Ref.Name
			return err
		}
		v, err := it.prepare(f, v)
		if err != nil {
			ok = false
			p.reportf(it, "field %q: %v", f.Name, err)
		}
		fields = append(fields, selected{Field: f, value: v})
	}
	if ok {
		p.lay(it, fields, len(wanted))
	}
	p.selected = fields
	return nil
}

// appendFields selects every field of a secret, in the order of their names.
func appendFields(fields []Field, payload map[string]secret.Value) []Field {
	for name := range payload {
		fields = append(fields, Field{Name: name})
	}
	slices.SortFunc(fields, func(a, b Field) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// prepare checks a field and decodes its value.
func (it Item) prepare(f Field, v secret.Value) (secret.Value, error) {
	if err := it.checkField(f); err != nil {
		return v, err
	}
	encoding := it.Encoding
	if f.Encoding != "" {
		encoding = f.Encoding
	}
	v, err := decode(v, encoding)
	if err != nil || it.Format == FormatFiles || it.Format == FormatRaw || it.Format.isKeystore() {
		return v, err
	}
	text, err := textOf(v)
	if err == nil && it.Format == FormatDotenv {
		err = checkDotenv(text)
	}
	return v, err
}

// lay turns the fields of one secret into files. wanted counts the missing ones too, so that a file does not move when
// an optional field disappears.
func (p *projection) lay(it Item, fields []selected, wanted int) {
	switch it.Format {
	case FormatFiles:
		for _, f := range fields {
			mode := f.Mode
			if mode == 0 {
				mode = it.Mode
			}
			p.file(it, it.fieldPath(f.Field, wanted), mode, f.value)
		}
	case FormatRaw:
		switch {
		case wanted != 1:
			p.reportf(it, "format raw writes one field, and the secret has %d; list the one", wanted)
		case len(fields) == 1:
			p.file(it, it.Path, it.Mode, fields[0].value)
		}
	case FormatTLS, FormatPEM, FormatPKCS12, FormatJKS:
		p.keystore(it, fields)
	case FormatJSON, FormatDotenv:
		text := make(map[string]string, len(fields))
		for _, f := range fields {
			text[f.key()] = string(f.value.Reveal())
		}
		encode := encodeJSON
		if it.Format == FormatDotenv {
			encode = encodeDotenv
		}
		p.file(it, it.Path, it.Mode, encode(text))
	}
}

func (p *projection) file(it Item, path string, mode fs.FileMode, data secret.Value) {
	if err := p.paths.add(path, it.owner()); err != nil {
		p.problems = append(p.problems, err.Error()+"; set path of one of them")
	}
	if mode == 0 {
		mode = p.spec.defaultMode()
	}
	p.files = append(p.files, File{Path: path, Mode: mode, Data: data})
}

func (p *projection) reportf(it Item, format string, args ...any) {
	p.problems = append(p.problems, it.String()+": "+fmt.Sprintf(format, args...))
}

// defaultMode lets everybody in the pod read, or only the group if the files have one.
func (s Spec) defaultMode() fs.FileMode {
	if s.GID >= 0 {
		return 0o440
	}
	return 0o444
}

// maxEntries limits one generation of a volume, in files, directories and links: what a store returns must not make
// the node's kernel hold an unlimited number of them.
const maxEntries = 4096

// footprint is what files take on a tmpfs, in bytes of whole pages and in entries.
func footprint(files []File) (size int64, entries int) {
	page := int64(os.Getpagesize())
	dirs := map[string]bool{}
	for _, f := range files {
		size += (int64(f.Data.Len()) + page - 1) / page * page
		for dir := range parents(f.Path) {
			if dirs[dir] {
				break
			}
			dirs[dir] = true
		}
	}
	links := topLevel(files)
	for _, name := range links {
		if len(dataLink)+len(name) >= longLink {
			size += page
		}
	}
	return size, len(files) + len(dirs) + len(links)
}

// longLink is the length from which tmpfs needs a page for the target of a symbolic link (SHORT_SYMLINK_LEN).
const longLink = 127

// topLevel returns the first elements of the paths of files, which are sorted: what a reader sees in the volume.
func topLevel(files []File) []string {
	names := make([]string, len(files))
	for i, f := range files {
		names[i], _, _ = strings.Cut(f.Path, "/")
	}
	return slices.Compact(names)
}
