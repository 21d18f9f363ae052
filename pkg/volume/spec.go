package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// reservedPrefix marks the volume attributes that the kubelet adds about the pod. They are no part of a Spec, and none
// of them is kept: one holds the pod's tokens.
const reservedPrefix = "csi.storage.k8s.io/"

// The volume attributes.
const (
	attrStore           = "store"
	attrSecrets         = "secrets"
	attrMode            = "mode"
	attrUID             = "uid"
	attrGID             = "gid"
	attrFormat          = "format"
	attrSize            = "size"
	attrRefreshInterval = "refreshInterval"
	attrAPI             = "api"
	attrClass           = "secretProviderClass"
)

// ParseSpec reads volume attributes, except those whose names start with "csi.storage.k8s.io/".
//
//	store            the store of every item that names none
//	secrets          names, separated by commas; or a YAML list of names and items
//	format           files (the default), raw, json or dotenv, of every item that names none
//	mode             of every file that has none, in octal with a leading zero: "0440"
//	uid, gid         owner of the files; by default the agent's, or the group that the pod asks for (fsGroup)
//	size             limit for the files, in whole pages, as a quantity: "64Ki"; the default is the agent's limit
//	refreshInterval  how often to read the secrets again, "1s" or more; the default is the store's
//	api              how the pod calls the secrets API, with commas: socket (sockets http.sock and grpc.sock in the
//	                 volume), dapr-plugin (the socket dapr-components/keywell.sock, for a daprd), localhost (a listener in
//	                 the pod's network namespace); a volume may have this and no secrets
//	secretProviderClass  the name of a SecretProviderClass in the pod's namespace, whose files are added to the others
//
// An item of the YAML list has the members name, store, version, stage, namespace, path, fields, mode, optional, format
// and encoding (base64, or nothing), as in Item. Its path is by default the secret's name. Its fields are a list of
// names, a list of {name, path, mode, encoding}, or a map from names to paths.
//
// An item with the member template is a file that a template makes of the item's secrets, a map from names to {name,
// store, version, stage, namespace, optional} or to the name of a secret; delimiters, such as "[[ ]]", stand in for {{
// and }}. It has a path, a mode, optional, a store for the secrets that name none, and no other member.
//
// Paths are relative, in their shortest form, with elements of at most 255 bytes that do not start with "..", and
// none is used twice or is both a file and a directory. Directories have mode 0755 and belong to the agent, so that
// whoever the files belong to can reach them; what protects a secret is the file's mode.
//
// A volume has up to 1024 secrets. The error is an *InvalidError that lists everything that is wrong. No secret has
// been read by then.
func ParseSpec(attributes map[string]string) (Spec, error) {
	spec, problems := parseSpec(attributes)
	if len(problems) > 0 {
		return Spec{}, &InvalidError{Problems: problems}
	}
	return spec, nil
}

func parseSpec(attributes map[string]string) (Spec, []string) {
	p := parser{}
	spec := Spec{UID: -1, GID: -1}
	defaults := Item{Ref: refOf(attributes[attrStore]), Format: FormatFiles}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		if strings.HasPrefix(name, reservedPrefix) {
			continue
		}
		p.at = attributeCalled(name)
		value := attributes[name]
		switch name {
		case attrStore, attrSecrets:
		case attrMode:
			spec.Mode = parsed(&p, value, parseMode)
			defaults.Mode = spec.Mode
		case attrUID:
			spec.UID = parsed(&p, value, parseID)
		case attrGID:
			spec.GID = parsed(&p, value, parseID)
		case attrFormat:
			defaults.Format = parsed(&p, value, parseFormat)
		case attrSize:
			spec.Size = parsed(&p, value, parseSize)
		case attrRefreshInterval:
			spec.RefreshInterval = parsed(&p, value, parseInterval)
		case attrAPI:
			p.ways(&spec, value)
		case attrClass:
			spec.Class = strings.TrimSpace(value)
			if spec.Class == "" {
				p.reportf("is empty; write the name of a SecretProviderClass")
			}
		default:
			p.reportf("is unknown; the attributes are %s", strings.Join(attributeNames, ", "))
		}
	}
	p.at = attributeCalled(attrSecrets)
	spec.Items = p.items(attributes[attrSecrets], defaults)
	if spec.Class != "" {
		spec.Items = append(spec.Items, itemOf(spec.Class))
	}
	if len(p.problems) == 0 {
		p.problems = spec.check()
	}
	return spec, p.problems
}

var attributeNames = []string{attrStore, attrSecrets, attrFormat, attrMode, attrUID, attrGID, attrSize, attrRefreshInterval, attrAPI, attrClass}

// maxItems limits, in secrets, what one volume can make the agent read and hold at one time.
const maxItems = 1024

func (s Spec) check() (problems []string) {
	switch n := s.count(); {
	case n == 0 && !s.Socket && !s.Plugin && !s.Localhost:
		return []string{`volume attribute "secrets" names no secret; list at least one, or name a secretProviderClass`}
	case n > maxItems:
		return []string{fmt.Sprintf(`volume attribute "secrets" lists %d secrets, and %d are allowed; use several volumes`, n, maxItems)}
	}
	paths := s.paths()
	for _, it := range s.Items {
		problems = append(problems, it.check(&paths)...)
	}
	return problems
}

// paths is what a volume holds whatever its items are.
func (s Spec) paths() pathSet {
	paths := newPathSet(len(s.Items))
	if s.Socket {
		_ = paths.add(httpSocket, pathOwner{words: "the API's socket"}) // nothing else is in the set
		_ = paths.add(grpcSocket, pathOwner{words: "the API's socket"})
	}
	if s.Plugin {
		_ = paths.add(daprdDir, pathOwner{words: "the directory of daprd's socket"})
	}
	return paths
}

// ways reads the attribute "api".
func (p *parser) ways(spec *Spec, text string) {
	for way := range strings.SplitSeq(text, ",") {
		switch strings.TrimSpace(way) {
		case "socket":
			spec.Socket = true
		case "dapr-plugin":
			spec.Plugin = true
		case "localhost":
			spec.Localhost = true
		default:
			p.reportf("is %q; it must be socket, localhost or dapr-plugin, or several with commas between them", text)
			return
		}
	}
}

// parser collects problems.
type parser struct {
	at       string // where in the attributes the parser is
	problems []string
}

func (p *parser) reportf(format string, args ...any) {
	p.problems = append(p.problems, p.at+" "+fmt.Sprintf(format, args...))
}

// attributeCalled names an attribute.
func attributeCalled(name string) string { return "volume attribute " + strconv.Quote(name) }

// parsed returns what parse makes of s, and reports its error.
func parsed[T any](p *parser, s string, parse func(string) (T, error)) T {
	v, err := parse(s)
	if err != nil {
		p.reportf("is %q; %v", s, err)
	}
	return v
}

// parseMode wants a leading zero because the number means something else without one: in YAML and JSON it is decimal.
func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || !strings.HasPrefix(s, "0") || n == 0 || n > 0o777 {
		return 0, errors.New("it must be an octal mode with a leading zero, up to 0777, such as 0440")
	}
	return fs.FileMode(n), nil
}

func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1, fmt.Errorf("it must be a number from 0 to %d", math.MaxInt32)
	}
	return int(n), nil
}

func parseFormat(s string) (Format, error) {
	if !slices.Contains(formats, s) {
		return "", fmt.Errorf("it must be one of %s", strings.Join(formats, ", "))
	}
	return Format(s), nil
}

func parseEncoding(s string) (Encoding, error) {
	if Encoding(s) != EncodingBase64 {
		return "", fmt.Errorf("it must be %s, or left out", EncodingBase64)
	}
	return EncodingBase64, nil
}

func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, errors.New("it must be true or false")
	}
	return s == "true", nil
}

// parseInterval has a floor because a volume must not be able to make the agent spin.
func parseInterval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Second {
		return 0, errors.New("it must be a duration of at least 1s, such as 30s or 5m")
	}
	return d, nil
}

// parseSize reads a Kubernetes quantity that is a whole number of bytes.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "kKMGi")
	unit, known := units[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n <= 0 || n > math.MaxInt64/unit {
		return 0, errors.New("it must be a positive quantity of bytes, such as 64Ki or 1Mi")
	}
	return n * unit, nil
}

var units = map[string]int64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
