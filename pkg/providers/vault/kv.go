package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// withMetadata is the request metadata that asks for what a KV engine of version 2 knows of a secret besides its value.
const withMetadata = "with_metadata"

// kv2Metadata is what the engine says of a version.
type kv2Metadata struct {
	Version json.Number     `json:"version"`
	Created string          `json:"created_time"`
	Custom  map[string]any  `json:"custom_metadata"`
	Current json.Number     `json:"current_version"` // of the secret; in metadata answers only
	All     map[string]kept `json:"versions"`        // likewise
}

// kept says what became of a version.
type kept struct {
	Deleted   string `json:"deletion_time"` // empty: it is not
	Destroyed bool   `json:"destroyed"`
}

func (s *store) fetchKV2(ctx context.Context, who reader, q providers.Query) (providers.Payload, error) {
	version, err := versionOf(q.Version)
	if err != nil {
		return providers.Payload{}, err
	}
	extra := truthy(q.Metadata[withMetadata])
	if q.Known != "" && version == "" && !extra && s.pollVersions && s.sameVersion(ctx, who, q) {
		return providers.Payload{Version: q.Known, Unchanged: true}, nil
	}
	r := request{method: http.MethodGet, path: s.enginePath + "/data/" + s.prefix + q.Name}
	if version != "" {
		r.query = url.Values{"version": {version}}
	}
	a, _, err := who.do(ctx, r)
	if err != nil {
		return providers.Payload{}, err
	}
	var meta kv2Metadata
	if json.Unmarshal(a.Data["metadata"], &meta) != nil || isNull(a.Data["data"]) {
		return providers.Payload{}, providers.Errorf(providers.NotFound, "%s: the version is deleted, or this is no KV engine of version 2", r)
	}
	fields, err := s.fields(q.Name, a.Data["data"])
	if err != nil {
		return providers.Payload{}, err
	}
	if extra {
		if err := meta.addTo(fields); err != nil {
			return providers.Payload{}, err
		}
	}
	return providers.Payload{Fields: fields, Version: meta.Version.String()}, nil
}

// sameVersion asks for the newest version without its value. Any doubt means no, and the value is read: a token may
// often not read metadata, which is remembered for a while.
func (s *store) sameVersion(ctx context.Context, who reader, q providers.Query) bool {
	if s.versions.refused(who.who) {
		return false
	}
	a, _, err := who.do(ctx, request{method: http.MethodGet, path: s.enginePath + "/metadata/" + s.prefix + q.Name})
	if providers.KindOf(err) == providers.Denied {
		s.versions.add(who.who)
	}
	if err != nil {
		return false
	}
	current := number(a.Data["current_version"])
	var all map[string]kept
	if current <= 0 || strconv.FormatInt(current, 10) != q.Known || json.Unmarshal(a.Data["versions"], &all) != nil {
		return false
	}
	newest, found := all[q.Known]
	return found && newest == kept{}
}

func (s *store) fetchKV1(ctx context.Context, who reader, q providers.Query) (providers.Payload, error) {
	if version, err := versionOf(q.Version); err != nil || version != "" {
		return providers.Payload{}, providers.Errorf(providers.Invalid, "version %q is asked for, and a KV engine of version 1 has none", q.Version)
	}
	a, _, err := who.do(ctx, request{method: http.MethodGet, path: s.enginePath + "/" + s.prefix + q.Name})
	if err != nil {
		return providers.Payload{}, err
	}
	raw, err := json.Marshal(a.Data)
	if err != nil {
		return providers.Payload{}, providers.Errorf(providers.Unavailable, "the answer is not Vault's JSON")
	}
	fields, err := s.fields(q.Name, raw)
	return providers.Payload{Fields: fields}, err
}

// fields turns a secret's data into fields: one for each key, or in text mode one with the data as it is.
func (s *store) fields(name string, data json.RawMessage) (map[string]secret.Value, error) {
	if s.text {
		return map[string]secret.Value{name: secret.New(data)}, nil
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, providers.Errorf(providers.Unavailable, "the answer is not Vault's JSON")
	}
	fields := make(map[string]secret.Value, len(keys))
	for key, value := range keys {
		fields[key] = text(value)
	}
	return fields, nil
}

// addTo adds what is known of a version to its fields, under names that a secret's own key must not have.
func (m kv2Metadata) addTo(fields map[string]secret.Value) error {
	extra := map[string]secret.Value{
		"metadata.version":      secret.FromString(m.Version.String()),
		"metadata.created_time": secret.FromString(m.Created),
	}
	for key, value := range m.Custom {
		if s, ok := value.(string); ok { // the engine has no other
			extra["metadata.custom."+key] = secret.FromString(s)
		}
	}
	for key, value := range extra {
		if _, taken := fields[key]; taken {
			return providers.Errorf(providers.Invalid, "the secret has a key %q of its own, so %s can't be used with it", key, withMetadata)
		}
		fields[key] = value
	}
	return nil
}

// versionOf returns the version to ask for; empty: the newest, for which Dapr writes 0.
func versionOf(asked string) (string, error) {
	if asked == "" || asked == "0" {
		return "", nil
	}
	n, err := strconv.ParseUint(asked, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != asked {
		return "", providers.Errorf(providers.Invalid, "version %q is not a number such as 3", asked)
	}
	return asked, nil
}
