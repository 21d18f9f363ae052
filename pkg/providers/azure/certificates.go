package azure

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// contentPFX is the content type of a certificate's secret that holds base64 of PKCS #12; the other is PEM.
const contentPFX = "application/x-pkcs12"

// certificate reads the secret behind a certificate: tls.crt, the chain from the leaf to the root, tls.key and, where the
// vault keeps it so, the PFX file.
func (*vault) certificate(ctx context.Context, s *session, q providers.Query, name string) (providers.Payload, error) {
	got, err := s.secrets.GetSecret(ctx, name, q.Version, nil)
	if err != nil {
		return providers.Payload{}, err
	}
	p := payload(got.Secret)
	p.Fields = map[string]secret.Value{}
	data := []byte(text(got.Value))
	if text(got.ContentType) == contentPFX {
		if data, err = base64.StdEncoding.DecodeString(text(got.Value)); err != nil {
			return p, errNoCertificate(name)
		}
		p.Fields["tls.pfx"] = secret.New(bytes.Clone(data))
	}
	certificates, key, err := azidentity.ParseCertificates(data, nil)
	if err != nil { // its text may quote the key
		return p, errNoCertificate(name)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return p, errNoCertificate(name)
	}
	var chain bytes.Buffer
	for _, c := range inOrder(certificates, key) {
		_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // to memory
	}
	p.Fields["tls.crt"] = secret.New(chain.Bytes())
	p.Fields["tls.key"] = secret.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	return p, nil
}

func errNoCertificate(name string) error {
	return providers.Errorf(providers.Invalid, "secret %s is no certificate with its key, in PEM or PKCS #12", name)
}

// inOrder sorts a chain: first the key's certificate, then each one's issuer. What belongs to none of them comes last.
func inOrder(all []*x509.Certificate, key crypto.PrivateKey) []*x509.Certificate {
	var chain []*x509.Certificate
	next := func(is func(*x509.Certificate) bool) bool {
		for i, c := range all {
			if is(c) {
				chain = append(chain, c)
				all = append(append([]*x509.Certificate{}, all[:i]...), all[i+1:]...)
				return true
			}
		}
		return false
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return all
	}
	own, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !next(func(c *x509.Certificate) bool { return own.Equal(c.PublicKey) }) {
		return all
	}
	for next(func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawSubject, chain[len(chain)-1].RawIssuer)
	}) {
	}
	return append(chain, all...)
}

// key reads the public part of a key, which is all of it that leaves a vault, in PEM.
func (*vault) key(ctx context.Context, s *session, q providers.Query, name string) (providers.Payload, error) {
	got, err := s.keys.GetKey(ctx, name, q.Version, nil)
	if err != nil {
		return providers.Payload{}, err
	}
	if got.Key == nil {
		return providers.Payload{}, errNoKey(name)
	}
	public := publicKey(got.Key)
	if public == nil {
		return providers.Payload{}, errNoKey(name)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return providers.Payload{}, errNoKey(name)
	}
	p := providers.Payload{Fields: map[string]secret.Value{q.Name: secret.New(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}
	if got.Key.KID != nil {
		p.Version = got.Key.KID.Version()
	}
	return p, nil
}

func errNoKey(name string) error {
	return providers.Errorf(providers.Invalid, "key %s has no public part of a kind that is known here: RSA, P-256, P-384, P-521", name)
}

// publicKey returns nil for a kind that is not known.
func publicKey(k *azkeys.JSONWebKey) crypto.PublicKey {
	if k.Kty == nil {
		return nil
	}
	switch *k.Kty {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		e := new(big.Int).SetBytes(k.E)
		if len(k.N) == 0 || !e.IsInt64() {
			return nil
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(k.N), E: int(e.Int64())}
	case azkeys.KeyTypeEC, azkeys.KeyTypeECHSM:
		if k.Crv == nil {
			return nil
		}
		curve, ok := map[azkeys.CurveName]elliptic.Curve{
			azkeys.CurveNameP256: elliptic.P256(), azkeys.CurveNameP384: elliptic.P384(), azkeys.CurveNameP521: elliptic.P521(),
		}[*k.Crv]
		if !ok {
			return nil
		}
		size := (curve.Params().BitSize + 7) / 8
		point := append([]byte{4}, append(padded(k.X, size), padded(k.Y, size)...)...)
		public, err := ecdsa.ParseUncompressedPublicKey(curve, point)
		if err != nil {
			return nil
		}
		return public
	default:
		return nil
	}
}

// padded returns b with zeros before it, of size bytes.
func padded(b []byte, size int) []byte {
	return append(make([]byte, max(0, size-len(b))), b...)
}
