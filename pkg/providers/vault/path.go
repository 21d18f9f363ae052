package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// methodKey is the request metadata that says how a path is read. All other metadata is the arguments.
const methodKey = "method"

// fetchPath reads a path of any engine. The answer's data are the fields. What is issued there has a lease or is a
// certificate; passwords that Vault rotates by itself are valid until then.
func (s *store) fetchPath(ctx context.Context, who reader, q providers.Query, mounted string) (providers.Payload, error) {
	if q.Version != "" && q.Version != "0" {
		return providers.Payload{}, providers.Errorf(providers.Invalid, "version %q is asked for, and what is read by path has none", q.Version)
	}
	r, err := s.pathRequest(q)
	if err != nil {
		return providers.Payload{}, err
	}
	asked := time.Now()
	a, l, err := who.do(ctx, r)
	if err != nil {
		return providers.Payload{}, err
	}
	if len(a.Data) == 0 {
		return providers.Payload{}, providers.Errorf(providers.NotFound, "%s: the answer has no data", r)
	}
	p := providers.Payload{Fields: make(map[string]secret.Value, len(a.Data))}
	for key, value := range a.Data {
		p.Fields[key] = pathField(value)
	}
	switch expiration := number(a.Data["expiration"]); {
	case a.LeaseID != "":
		p.Lease, p.Issued = who.leaseOf(a, l, asked), true
		p.NotAfter = asked.Add(p.Lease.Duration)
	case expiration > 0 && r.method == http.MethodPost && p.Fields["certificate"].Len() > 0:
		p.NotAfter, p.Issued = a.until(time.Unix(expiration, 0), asked), true
	case !isNull(a.Data["last_vault_rotation"]) && number(a.Data["ttl"]) > 0: // a static role
		p.NotAfter = asked.Add(time.Duration(number(a.Data["ttl"])) * time.Second)
	case mounted == "totp": // a code is valid for some seconds, and does not say for how many
		p.NotAfter = asked.Add(time.Second)
	}
	if p.Fields["certificate"].Len() > 0 && p.Issued {
		addBundles(p.Fields)
	}
	return p, nil
}

// pathRequest turns q into a call: a GET without arguments, a POST with them, unless its metadata says otherwise.
func (s *store) pathRequest(q providers.Query) (request, error) {
	r := request{path: s.enginePath + "/" + q.Name, query: url.Values{}}
	arguments := map[string]any{}
	for name, value := range q.Metadata {
		if name != methodKey {
			arguments[name] = value
		}
	}
	switch method := strings.ToUpper(q.Metadata[methodKey]); {
	case method == http.MethodGet, method == "" && len(arguments) == 0:
		r.method = http.MethodGet
		for name := range arguments {
			r.query.Set(name, q.Metadata[name])
		}
	case method == http.MethodPost, method == http.MethodPut, method == "":
		r.method, r.body = http.MethodPost, arguments
	default:
		return request{}, providers.Errorf(providers.Invalid, "method %q is asked for; a path is read by GET or POST", q.Metadata[methodKey])
	}
	return r, nil
}

// pathField is text, but for a list of PEM blocks, which is one after the other.
func pathField(raw json.RawMessage) secret.Value {
	var blocks []string
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte(`["-----BEGIN`)) || json.Unmarshal(raw, &blocks) != nil {
		return text(raw)
	}
	return joinPEM(blocks...)
}

// addBundles adds to an issued certificate what servers want in one file: fullchain, the certificate and those that lead to
// its CA, and bundle, the same after the key.
func addBundles(fields map[string]secret.Value) {
	chain := fields["ca_chain"]
	if chain.Len() == 0 {
		chain = fields["issuing_ca"]
	}
	certificates := []string{string(fields["certificate"].Reveal()), string(chain.Reveal())}
	fields["fullchain"] = joinPEM(certificates...)
	if key := fields["private_key"]; key.Len() > 0 {
		fields["bundle"] = joinPEM(append([]string{string(key.Reveal())}, certificates...)...)
	}
}

func joinPEM(blocks ...string) secret.Value {
	var b []byte
	for _, block := range blocks {
		if block = strings.TrimSpace(block); block != "" {
			b = append(append(b, block...), '\n')
		}
	}
	return secret.New(b)
}
