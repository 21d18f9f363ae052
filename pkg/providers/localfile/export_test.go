package localfile

import "github.com/keywell/keywell/pkg/secret"

// Parse is parse, for the fuzz target.
func Parse(data []byte, separator string, multiValued bool) (map[string]map[string]secret.Value, error) {
	return parse(data, layout{separator: separator, multiValued: multiValued})
}
