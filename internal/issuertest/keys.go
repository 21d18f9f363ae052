package issuertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Keys are the public keys of an issuer that is elsewhere, such as an API server. They check tokens as an Issuer does.
type Keys struct {
	url  string
	keys map[string]crypto.PublicKey // by key ID
}

// ReadKeys reads a JSON web key set with keys for RS256 and ES256, of the issuer with a URL.
func ReadKeys(url string, jwks []byte) (*Keys, error) {
	var set struct {
		Keys []struct {
			KeyType string `json:"kty"`
			ID      string `json:"kid"`
			Curve   string `json:"crv"`
			N       octets `json:"n"`
			E       octets `json:"e"`
			X       octets `json:"x"`
			Y       octets `json:"y"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, err
	}
	k := &Keys{url: url, keys: map[string]crypto.PublicKey{}}
	for _, key := range set.Keys {
		switch {
		case key.KeyType == "RSA":
			k.keys[key.ID] = &rsa.PublicKey{N: new(big.Int).SetBytes(key.N), E: int(new(big.Int).SetBytes(key.E).Int64())}
		case key.KeyType == "EC" && key.Curve == "P-256":
			public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, key.X, key.Y))
			if err != nil {
				return nil, fmt.Errorf("key %q: %w", key.ID, err)
			}
			k.keys[key.ID] = public
		default:
			return nil, fmt.Errorf("key %q is of type %s %s", key.ID, key.KeyType, key.Curve)
		}
	}
	return k, nil
}

// octets are bytes that are written in base64url.
type octets []byte

// UnmarshalText decodes them.
func (o *octets) UnmarshalText(text []byte) (err error) {
	*o, err = base64.RawURLEncoding.AppendDecode(nil, text)
	return err
}

// Verify returns the subject of a token that one of the keys signed for audience and that has not expired.
func (k *Keys) Verify(token, audience string) (string, error) {
	return verify(token, audience, k.url, func(keyID string) crypto.PublicKey { return k.keys[keyID] })
}

// checkSignature checks a signature as its key wants it: RS256 or ES256.
func checkSignature(key crypto.PublicKey, digest, signature []byte) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature)
	case *ecdsa.PublicKey:
		if half := len(signature) / 2; half != 32 ||
			!ecdsa.Verify(key, digest, new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])) {
			return errors.New("the signature is wrong")
		}
		return nil
	default:
		return errors.New("no such key")
	}
}
