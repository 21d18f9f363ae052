package aws

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/keywell/keywell/pkg/providers"
)

// anywhere is the configuration of IAM Roles Anywhere: credentials of a role for the owner of a certificate. AWS' SDK
// leaves its one call out. Source: https://docs.aws.amazon.com/rolesanywhere/latest/userguide/authentication-sign-process.html
// and authentication-create-session.html.
type anywhere struct {
	trustAnchor, profile, role, sessionName string
	certificateFile, keyFile                string // PEM; the leaf first. Read at each session, so that they may be renewed
	endpoint                                string // empty: AWS' own
}

func (a anywhere) wanted() bool { return a.trustAnchor != "" || a.profile != "" }

func (a anywhere) check() error {
	if a.trustAnchor == "" || a.profile == "" || a.role == "" {
		return providers.Errorf(providers.Invalid, "IAM Roles Anywhere needs all of the metadata trustAnchorArn, trustProfileArn and assumeRoleArn")
	}
	if a.certificateFile == "" || a.keyFile == "" {
		return providers.Errorf(providers.Invalid, "IAM Roles Anywhere needs metadata certificateFile and privateKeyFile: PEM files, such as a SPIFFE helper writes")
	}
	return nil
}

// anywhereProvider makes sessions of Roles Anywhere.
type anywhereProvider struct {
	anywhere
	region string
	http   *http.Client
}

const (
	anywhereService = "rolesanywhere"
	anywhereDate    = "20060102T150405Z"
	maxSession      = 1 << 20 // bytes of an answer
)

// Retrieve makes a session.
func (p *anywhereProvider) Retrieve(ctx context.Context) (aws.Credentials, error) {
	req, err := p.request(ctx, time.Now().UTC())
	if err != nil {
		return aws.Credentials{}, err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("rolesanywhere:CreateSession: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		return aws.Credentials{}, providers.Errorf(kindOfStatus(resp), "rolesanywhere:CreateSession: AWS answered %s: check the certificate, the trust anchor, the profile and the role", resp.Status)
	}
	var answer struct {
		CredentialSet []struct {
			Credentials struct {
				AccessKeyID     string    `json:"accessKeyId"`
				SecretAccessKey string    `json:"secretAccessKey"`
				SessionToken    string    `json:"sessionToken"`
				Expiration      time.Time `json:"expiration"`
			} `json:"credentials"`
		} `json:"credentialSet"`
	}
	if json.NewDecoder(io.LimitReader(resp.Body, maxSession)).Decode(&answer) != nil || len(answer.CredentialSet) == 0 {
		return aws.Credentials{}, providers.Errorf(providers.Unavailable, "rolesanywhere:CreateSession: AWS' answer is cut off or malformed")
	}
	given := answer.CredentialSet[0].Credentials
	return aws.Credentials{
		AccessKeyID: given.AccessKeyID, SecretAccessKey: given.SecretAccessKey, SessionToken: given.SessionToken,
		Source: "RolesAnywhere", CanExpire: true, Expires: given.Expiration,
	}, nil
}

// request returns a signed CreateSession.
func (p *anywhereProvider) request(ctx context.Context, now time.Time) (*http.Request, error) {
	pair, err := tls.LoadX509KeyPair(p.certificateFile, p.keyFile)
	if err != nil {
		return nil, providers.Errorf(providers.Invalid, "certificate for IAM Roles Anywhere: %w", err)
	}
	body, err := json.Marshal(map[string]any{
		"trustAnchorArn": p.trustAnchor, "profileArn": p.profile, "roleArn": p.role, "roleSessionName": p.sessionName, "durationSeconds": 3600,
	})
	if err != nil {
		return nil, err
	}
	endpoint := p.endpoint
	if endpoint == "" {
		endpoint = "https://rolesanywhere." + p.region + ".amazonaws.com"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(endpoint, "/")+"/sessions", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Amz-Date", now.Format(anywhereDate))
	req.Header.Set("X-Amz-X509", base64.StdEncoding.EncodeToString(pair.Certificate[0]))
	signed := []string{"content-type", "host", "x-amz-date", "x-amz-x509"}
	if len(pair.Certificate) > 1 {
		var chain []string
		for _, der := range pair.Certificate[1:] {
			chain = append(chain, base64.StdEncoding.EncodeToString(der))
		}
		req.Header.Set("X-Amz-X509-Chain", strings.Join(chain, ","))
		signed = append(signed, "x-amz-x509-chain")
	}
	return req, p.sign(req, body, pair, signed, now)
}

// sign adds the signature: AWS' version 4, with the certificate's key in the place of a secret one.
func (p *anywhereProvider) sign(req *http.Request, body []byte, pair tls.Certificate, signed []string, now time.Time) error {
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return providers.Errorf(providers.Invalid, "certificate for IAM Roles Anywhere: %w", err)
	}
	var algorithm string
	switch leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		algorithm = "AWS4-X509-ECDSA-SHA256"
	case *rsa.PublicKey:
		algorithm = "AWS4-X509-RSA-SHA256"
	default:
		return providers.Errorf(providers.Invalid, "certificate for IAM Roles Anywhere: its key is neither ECDSA nor RSA")
	}
	scope := strings.Join([]string{now.Format("20060102"), p.region, anywhereService, "aws4_request"}, "/")
	canonical := sha256.Sum256([]byte(canonicalRequest(req.URL, req.Header, signed, body)))
	digest := sha256.Sum256([]byte(strings.Join([]string{algorithm, now.Format(anywhereDate), scope, hex.EncodeToString(canonical[:])}, "\n")))
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("the private key can't sign")
	}
	signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("sign for IAM Roles Anywhere: %w", err)
	}
	req.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		algorithm, leaf.SerialNumber, scope, strings.Join(signed, ";"), signature))
	return nil
}

// canonicalRequest is the form of a request that is signed. Its query is empty.
func canonicalRequest(u *url.URL, header http.Header, signed []string, body []byte) string {
	var headers strings.Builder
	for _, name := range signed {
		value := header.Get(name)
		if name == "host" {
			value = u.Host
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	digest := sha256.Sum256(body)
	return strings.Join([]string{
		http.MethodPost, u.EscapedPath(), "", headers.String(), strings.Join(signed, ";"), hex.EncodeToString(digest[:]),
	}, "\n")
}
