// Package keystore puts private keys and certificates into the forms in which programs want them: PEM in the right
// order, PKCS#12 and JKS.
//
// Its input is text in which PEM blocks stand, in any order and any number of fields, as stores keep them. What belongs
// together is found by the keys and signatures, not by names. The same input gives the same bytes, salts included: a
// file that is written again only when it differs must not differ each time. The salts are derived from what is
// encrypted, the private key included, so that different contents never share one.
//
// No error holds a part of the input. The package is pure, does no I/O, and does not check whether a certificate is
// valid or trusted. Packages volume and template call it.
package keystore

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxCertificates limits the work of finding the chain. A bundle of all public CAs has about 150.
const maxCertificates = 1000

// Bundle is a private key with its certificates, or certificates alone. It is immutable.
type Bundle struct {
	key    crypto.Signer // nil: none
	keyPEM []byte
	// chain is the certificate and those that issued it, as far as they are known, a root included. It is empty if no
	// certificate is the key's or a server's or client's.
	chain  []*x509.Certificate
	others []*x509.Certificate
}

// Parse finds the private key and the certificates in texts. A text without PEM blocks is passed over; a JSON list of
// texts stands for its elements. A certificate that occurs twice counts once.
func Parse(texts [][]byte) (Bundle, error) {
	var b Bundle
	var certificates []*x509.Certificate
	for _, text := range texts {
		for rest := elements(text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			switch {
			case block.Type == "CERTIFICATE":
				c, err := x509.ParseCertificate(block.Bytes)
				if err != nil {
					return b, errors.New("a certificate can't be parsed")
				}
				if !slices.ContainsFunc(certificates, c.Equal) {
					certificates = append(certificates, c)
				}
			case strings.HasSuffix(block.Type, "PRIVATE KEY"):
				if err := b.setKey(block); err != nil {
					return b, err
				}
			}
			if len(certificates) > maxCertificates {
				return b, fmt.Errorf("there are more than %d certificates", maxCertificates)
			}
		}
	}
	if len(certificates) == 0 {
		return b, errors.New("there is no certificate in PEM form")
	}
	return b, b.order(certificates)
}

// elements returns the texts of a JSON list, one after the other, or text itself.
func elements(text []byte) []byte {
	var list []string
	if !bytes.HasPrefix(bytes.TrimSpace(text), []byte("[")) || json.Unmarshal(text, &list) != nil {
		return text
	}
	return []byte(strings.Join(list, "\n"))
}

func (b *Bundle) setKey(block *pem.Block) error {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return fmt.Errorf("a private key has the form %q, which is not supported; store it as PKCS#8 without a password", block.Type)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return errors.New("a private key can't be parsed; store it as PKCS#8 without a password")
	}
	if b.key != nil && !samePublic(b.key.Public(), signer.Public()) {
		return errors.New("there are two private keys; list the fields of one")
	}
	b.key, b.keyPEM = signer, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
	return nil
}

func samePublic(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

// order finds the certificate and its chain.
func (b *Bundle) order(certificates []*x509.Certificate) error {
	leaf := slices.IndexFunc(certificates, func(c *x509.Certificate) bool {
		if b.key != nil {
			return samePublic(b.key.Public(), c.PublicKey)
		}
		return !c.IsCA
	})
	if b.key != nil && leaf < 0 {
		return errors.New("no certificate is that of the private key")
	}
	b.others = certificates
	for next := leaf; next >= 0; {
		c := b.others[next]
		b.chain = append(b.chain, c)
		b.others = slices.Delete(slices.Clone(b.others), next, next+1)
		if isIssuer(c, c) {
			break
		}
		next = slices.IndexFunc(b.others, func(other *x509.Certificate) bool { return isIssuer(other, c) })
	}
	return nil
}

func isIssuer(issuer, c *x509.Certificate) bool {
	return bytes.Equal(issuer.RawSubject, c.RawIssuer) &&
		issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// KeyPEM returns the private key as it was, nothing if there is none.
func (b Bundle) KeyPEM() []byte { return b.keyPEM }

// ChainPEM returns the certificate and then its chain without the root, as servers send it; nothing if there are only
// CAs.
func (b Bundle) ChainPEM() []byte {
	chain := b.chain
	if n := len(chain); n > 1 && isIssuer(chain[n-1], chain[n-1]) {
		chain = chain[:n-1]
	}
	return encode(chain)
}

// CAPEM returns what to trust: the last issuer that is known, and all certificates that are not in the chain.
func (b Bundle) CAPEM() []byte {
	var trusted []*x509.Certificate
	if n := len(b.chain); n > 1 || n == 1 && isIssuer(b.chain[0], b.chain[0]) {
		trusted = append(trusted, b.chain[n-1])
	}
	return encode(append(trusted, b.others...))
}

// PEM returns the chain and the private key, or if there is no chain, all certificates.
func (b Bundle) PEM() []byte {
	if len(b.chain) == 0 {
		return encode(b.others)
	}
	return append(b.ChainPEM(), b.keyPEM...)
}

func encode(certificates []*x509.Certificate) (out []byte) {
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
