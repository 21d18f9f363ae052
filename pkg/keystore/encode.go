package keystore

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	jks "github.com/pavlo-v-chernykh/keystore-go/v4"
	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// errEncode says nothing of the cause, which could hold a part of the input.
var errEncode = errors.New("the key and certificates can't be written in this format with this password")

// PKCS12 returns a PKCS#12 file (RFC 7292) with the private key and its chain; without a private key, one that lists all
// certificates as trusted. It is encrypted as OpenSSL 3 and Java 20 do by default, so OpenSSL 1.1.1 and Java 12 (or
// 8u301) can read it.
func (b Bundle) PKCS12(password string) ([]byte, error) {
	salts, err := b.salts("pkcs12", password)
	if err != nil {
		return nil, err
	}
	enc := pkcs12.Modern2023.WithRand(salts)
	var out []byte
	if b.key == nil {
		out, err = enc.EncodeTrustStore(b.all(), password)
	} else {
		out, err = enc.Encode(b.key, b.chain[0], b.chain[1:], password)
	}
	if err != nil {
		return nil, errEncode
	}
	return out, nil
}

// JKS returns a Java key store (version 2) with the private key and its chain as entry "1"; without a private key, one
// that trusts all certificates. The password is that of the store and of the key. JKS protects little against who has
// the file: prefer PKCS12, which every supported Java reads.
func (b Bundle) JKS(password string) ([]byte, error) {
	if strings.ContainsFunc(password, func(r rune) bool { return r > unicode.MaxASCII }) {
		return nil, errors.New("the password of a JKS file has to be ASCII")
	}
	salts, err := b.salts("jks", password)
	if err != nil {
		return nil, err
	}
	store := jks.New(jks.WithOrderedAliases(), jks.WithCustomRandomNumberGenerator(salts))
	if b.key == nil {
		for i, c := range b.all() {
			entry := jks.TrustedCertificateEntry{CreationTime: c.NotBefore, Certificate: jksCertificate(c)}
			err = errors.Join(err, store.SetTrustedCertificateEntry(fmt.Sprintf("%04d", i+1), entry))
		}
	} else {
		var der []byte
		if der, err = x509.MarshalPKCS8PrivateKey(b.key); err != nil {
			return nil, errEncode
		}
		entry := jks.PrivateKeyEntry{CreationTime: b.chain[0].NotBefore, PrivateKey: der}
		for _, c := range b.chain {
			entry.CertificateChain = append(entry.CertificateChain, jksCertificate(c))
		}
		err = store.SetPrivateKeyEntry("1", entry, []byte(password))
	}
	var out bytes.Buffer
	if err != nil || store.Store(&out, []byte(password)) != nil {
		return nil, errEncode
	}
	return out.Bytes(), nil
}

func jksCertificate(c *x509.Certificate) jks.Certificate {
	return jks.Certificate{Type: "X509", Content: c.Raw}
}

// all are the certificates of a Bundle without a private key.
func (b Bundle) all() []*x509.Certificate {
	return append(append([]*x509.Certificate(nil), b.chain...), b.others...)
}

// salts returns what stands in for random bytes. It depends on everything that is encrypted, in the order in which it
// is, and on nothing that is not; not on the password, which a salt that can be read must not help to guess.
func (b Bundle) salts(format, password string) (io.Reader, error) {
	if password == "" {
		return nil, errors.New("the password is empty")
	}
	mac := hmac.New(sha256.New, []byte("keywell keystore "+format))
	if b.key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(b.key)
		if err != nil {
			return nil, errEncode
		}
		writeSized(mac, der)
	}
	for _, c := range b.all() {
		writeSized(mac, c.Raw)
	}
	return &stream{seed: mac.Sum(nil)}, nil
}

// writeSized writes data so that where it ends is part of the digest.
func writeSized(w io.Writer, data []byte) {
	_, _ = w.Write(binary.BigEndian.AppendUint64(nil, uint64(len(data)))) // a hash does not fail
	_, _ = w.Write(data)
}

// stream is an endless sequence of bytes: HMAC-SHA-256 of a counter.
type stream struct {
	seed    []byte
	counter uint64
	rest    []byte
}

func (s *stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		mac := hmac.New(sha256.New, s.seed)
		_, _ = mac.Write(binary.BigEndian.AppendUint64(nil, s.counter)) // a hash does not fail
		s.counter++
		s.rest = mac.Sum(nil)
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
