package template

import (
	"encoding/base64"

	"github.com/keywell/keywell/pkg/keystore"
)

// keystores are functions for private keys and certificates. Their arguments are texts with PEM blocks in any order. A
// key store is binary, and comes out as base64, as from the External Secrets Operator's functions of these names.
var keystores = map[string]function{
	"pemToPkcs12Pass": locked(keystore.Bundle.PKCS12), "fullPemToPkcs12Pass": locked(keystore.Bundle.PKCS12),
	"pemToJksPass": locked(keystore.Bundle.JKS),

	"pemChain": fromPEM(keystore.Bundle.ChainPEM),
	"pemKey":   fromPEM(keystore.Bundle.KeyPEM),
	"pemCA":    fromPEM(keystore.Bundle.CAPEM),
}

// keystoreSteps is what reading keys and deriving others from a password takes.
const keystoreSteps = 8192

func fromPEM(part func(keystore.Bundle) []byte) function {
	f := function{least: 1, most: -1, steps: keystoreSteps}
	f.call = func(args []any) (any, error) {
		texts := make([][]byte, len(args))
		for i := range args {
			text, err := argument[string](args, i)
			if err != nil {
				return nil, err
			}
			texts[i] = []byte(text)
		}
		b, err := keystore.Parse(texts)
		if err != nil {
			return nil, err
		}
		return string(part(b)), nil
	}
	return f
}

func locked(encode func(keystore.Bundle, string) ([]byte, error)) function {
	f := fn3(func(certificates, key, password string) (any, error) {
		b, err := keystore.Parse([][]byte{[]byte(certificates), []byte(key)})
		if err != nil {
			return nil, err
		}
		data, err := encode(b, password)
		return base64.StdEncoding.EncodeToString(data), err
	})
	f.steps = keystoreSteps
	return f
}
