package providers

import (
	"bytes"
	"os"

	"github.com/keywell/keywell/pkg/secret"
)

// ReadCredential reads a credential from a file as it is now, without the white space around it. The error is Unavailable,
// because files are renewed, and names the property that says where the file is.
func ReadCredential(property, path string) (secret.Value, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return secret.Value{}, Errorf(Unavailable, "%s: %w", property, err)
	}
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return secret.Value{}, Errorf(Unavailable, "%s: the file is empty", property)
	}
	return secret.New(data), nil
}
