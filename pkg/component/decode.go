package component

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The API versions whose kinds are read.
const (
	daprVersion    = "dapr.io/v1alpha1"
	keywellGroup   = "keywell.dev/"
	keywellVersion = keywellGroup + "v1alpha1"
)

// contribution is what one file adds to the Manifests.
type contribution struct {
	components     []Component
	configurations []Configuration
	policies       []AccessPolicy
	classes        []SecretProviderClass
	faulty         []Position // documents that may hold a policy and could not be used
}

// decodeFile decodes every document of a file. explicit is set for a file that was named as a configuration file: as in
// Dapr, its documents need no kind or apiVersion to be a Configuration.
func decodeFile(src *Sources, path string, content []byte, explicit bool) (contribution, []Problem) {
	var (
		c        contribution
		problems []Problem
	)
	if explicit && src.LookupEnv != nil {
		content, problems = expandEnv(path, content, src.LookupEnv)
	}
	for _, doc := range split(content) {
		d := decoder{src: src, file: path, line: doc.line, budget: maxExpanded}
		d.document(doc.text, explicit, &c)
		slices.SortStableFunc(d.problems, byLine)
		problems = append(problems, d.problems...)
	}
	return c, problems
}

// document decodes one document into c, or reports why not.
func (d *decoder) document(text []byte, explicit bool, c *contribution) {
	var root yaml.Node
	holdsPolicy := explicit || mentionsPolicy(text) // as far as can be told of one that is no manifest
	at := Position{d.file, d.line + 1}
	if err := yaml.Unmarshal(text, &root); err != nil {
		d.syntax(err)
	} else if len(root.Content) > 0 { // there is more than comments
		top := d.visit(root.Content[0], "")
		at = d.position(top)
		switch {
		case !top.present():
		case !top.isMapping():
			d.fail(top, "document is "+top.kind()+", not a manifest", "start it with apiVersion and kind")
		default:
			holdsPolicy = d.manifest(top, explicit, c)
		}
	}
	if d.failed && holdsPolicy {
		c.faulty = append(c.faulty, at)
	}
}

// manifest decodes the document by its kind, and adds it to c if it is without fault. It reports whether the document
// holds a policy.
func (d *decoder) manifest(top node, explicit bool, c *contribution) (holdsPolicy bool) {
	version, kind := d.kindOf(top)
	switch {
	case version == daprVersion && kind == "Component":
		if component, ok := d.component(top); ok && d.finish(top) {
			c.components = append(c.components, component)
		}
	case kind == "Configuration" && (version == daprVersion || explicit), kind == "" && explicit:
		if configuration := d.configuration(top); d.finish(top) {
			c.configurations = append(c.configurations, configuration)
		}
		return true
	case version == keywellVersion && kind == "AccessPolicy":
		d.strict = true
		if policy := d.accessPolicy(top); d.finish(top) {
			c.policies = append(c.policies, policy)
		}
		return true
	case isClass(version, kind):
		if class := d.class(top); d.finish(top) {
			c.classes = append(c.classes, class)
		}
	default:
		d.otherKind(top, version, kind)
		return kind == "AccessPolicy" || strings.HasPrefix(version, keywellGroup)
	}
	return false
}

// kindOf returns apiVersion and kind, whatever else the document holds.
func (d *decoder) kindOf(top node) (version, kind string) {
	for _, m := range d.members(top, 0) {
		switch {
		case strings.EqualFold(m.name, "apiVersion"):
			version = d.text(d.visit(m.value, "apiVersion"))
		case strings.EqualFold(m.name, "kind"):
			kind = d.text(d.visit(m.value, "kind"))
		}
	}
	return version, kind
}

// finish refuses a document that is too large, and reports whether there was no error in it.
func (d *decoder) finish(top node) bool {
	if d.budget < 0 {
		d.failed = true
		d.problems = []Problem{{
			Position: d.position(top), Severity: Error,
			Message: "document is too large or nests too deep once its aliases are followed",
			Remedy:  "use fewer aliases, or split it",
		}}
	}
	return !d.failed
}

// otherKind says why a document was left out.
func (d *decoder) otherKind(top node, version, kind string) {
	switch {
	case kind == "AccessPolicy" || strings.HasPrefix(version, keywellGroup):
		d.fail(top, fmt.Sprintf("kind %q of apiVersion %q does not exist", kind, version),
			"write apiVersion: "+keywellVersion+" and kind: AccessPolicy")
	case kind == "" || version == "":
		d.warn(top, "document without kind or apiVersion is skipped", "add both, or remove the document")
	case kind == "Component" || kind == "Configuration":
		d.warn(top, fmt.Sprintf("%s of apiVersion %q is skipped, as Dapr does", kind, version), "write apiVersion: "+daprVersion)
	default:
		d.report(Note, top, fmt.Sprintf("kind %q is not for Keywell", kind), "")
	}
}

// parseError is the form of the YAML parser's errors.
var parseError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntax reports an error of the YAML parser. Of its messages, one quotes the manifest, perhaps a credential; it is
// replaced.
func (d *decoder) syntax(err error) {
	at := Position{d.file, d.line + 1}
	message := err.Error()
	if m := parseError.FindStringSubmatch(message); m != nil {
		if line, err := strconv.Atoi(m[1]); err == nil {
			at.Line = d.line + line
		}
		message = m[2]
	}
	remedy := "mend the YAML"
	if strings.HasPrefix(message, "unknown anchor") {
		message, remedy = "refers to an anchor that does not exist", "define it, or put a value that starts with * in quotes"
	}
	d.failed = true
	d.problems = append(d.problems, Problem{Position: at, Severity: Error, Message: message, Remedy: remedy})
}

// mentionsPolicy reports whether a document that can't be parsed may have been meant as one that holds a policy.
func mentionsPolicy(text []byte) bool {
	return bytes.Contains(text, []byte("AccessPolicy")) || bytes.Contains(text, []byte("Configuration"))
}

// rawDocument is the text of one document and how many lines of the file come before it.
type rawDocument struct {
	text []byte
	line int
}

// split cuts a file at every line that starts with three dashes and drops the rest of that line, as Dapr does
// (pkg/internal/loader/disk, splitYamlDoc). So a fault in one document does not hide the others.
func split(content []byte) []rawDocument {
	var docs []rawDocument
	start, first, line := 0, 0, 0 // offset and line of the document, current line
	for offset := 0; offset < len(content); line++ {
		end := len(content)
		if i := bytes.IndexByte(content[offset:], '\n'); i >= 0 {
			end = offset + i + 1
		}
		if offset > 0 && bytes.HasPrefix(content[offset:end], []byte("---")) {
			docs = append(docs, rawDocument{content[start:offset], first})
			start, first = end, line+1
		}
		offset = end
	}
	return append(docs, rawDocument{content[start:], first})
}

// expandEnv replaces $VAR and ${VAR} in the whole text, as Dapr does with a configuration file
// (pkg/config, LoadStandaloneConfiguration). It goes line by line so that a warning can name the line.
func expandEnv(path string, content []byte, lookup func(string) (string, bool)) ([]byte, []Problem) {
	var (
		out      bytes.Buffer
		problems []Problem
		line     int
	)
	for text := range bytes.Lines(content) {
		line++
		out.WriteString(os.Expand(string(text), func(name string) string {
			v, ok := lookup(name)
			if !ok {
				problems = append(problems, Problem{
					Position: Position{path, line}, Severity: Warning,
					Message: fmt.Sprintf("environment variable %q is not set and counts as empty", name),
					Remedy:  "set it, or remove the reference",
				})
			}
			return v
		}))
	}
	return out.Bytes(), problems
}
