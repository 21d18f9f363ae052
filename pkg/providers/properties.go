package providers

import (
	"github.com/keywell/keywell/pkg/secret"
)

// Properties are a store's metadata with every secretKeyRef and envRef resolved: lower-case name → value. They may
// hold credentials, hence the type.
type Properties map[string]secret.Value
