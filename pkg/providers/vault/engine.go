package vault

import (
	"context"
	"net/http"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
)

// engineKind says how a mount is read.
type engineKind string

const (
	engineDetected engineKind = "detect"
	engineKV1      engineKind = "kv-v1"
	engineKV2      engineKind = "kv-v2"
)

func engineKinds() []engineKind {
	return []engineKind{engineDetected, engineKV1, engineKV2}
}

// engine is how a mount is read.
type engine struct{ kind engineKind }

func (e *engine) fetch(ctx context.Context, s *store, who reader, q providers.Query) (providers.Payload, error) {
	switch e.kind {
	case engineKV1:
		return s.fetchKV1(ctx, who, q)
	default:
		return s.fetchKV2(ctx, who, q)
	}
}

// list returns the names below the prefix.
func (e *engine) list(ctx context.Context, s *store, who reader) (map[string]struct{}, error) {
	switch e.kind {
	case engineKV1:
		return s.walk(ctx, who, s.enginePath+"/")
	default:
		return s.walk(ctx, who, s.enginePath+"/metadata/")
	}
}

// engineOf returns how the mount is read: as the manifest says, or as Vault does. A caller that may not even know of
// the mount goes on as with Dapr, which knows KV version 2 only, and is refused there.
func (s *store) engineOf(ctx context.Context, who reader) (*engine, error) {
	if s.kind != engineDetected {
		return &engine{kind: s.kind}, nil
	}
	if e := s.engine.Load(); e != nil {
		return e, nil
	}
	a, _, err := who.do(ctx, request{method: http.MethodGet, path: "sys/internal/ui/mounts/" + s.enginePath})
	switch providers.KindOf(err) {
	case providers.Denied:
		return &engine{kind: engineKV2}, nil
	case providers.NotFound, providers.Invalid: // a server without this question
		s.engine.Store(&engine{kind: engineKV2})
		return s.engine.Load(), nil
	default:
		if err != nil {
			return nil, err
		}
	}
	kind := plain(a.Data["type"])
	if kind != "kv" && kind != "generic" {
		return nil, providers.Errorf(providers.Invalid, "%q is mounted at %q, which is no KV engine", kind, s.enginePath)
	}
	e := &engine{kind: engineKV1}
	if version := field(a.Data["options"], "version"); strings.HasPrefix(version, "2") {
		e.kind = engineKV2
	}
	s.engine.Store(e)
	return e, nil
}
