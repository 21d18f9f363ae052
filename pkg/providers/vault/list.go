package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/keywell/keywell/pkg/providers"
)

const (
	concurrentLists = 8
	maxNames        = 100_000
	maxDepth        = 64
)

// walk lists the folders below the prefix, several at a time, and returns the names without it. A folder that vanishes
// meanwhile is empty.
func (s *store) walk(ctx context.Context, who reader, root string) (map[string]struct{}, error) {
	w := &walk{names: map[string]struct{}{}}
	folders := []string{""}
	for depth := 0; len(folders) > 0; depth++ {
		if depth > maxDepth {
			return nil, providers.Errorf(providers.Invalid, "folders are nested more than %d deep", maxDepth)
		}
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(concurrentLists)
		for _, folder := range folders {
			group.Go(func() error {
				keys, err := s.keys(ctx, who, root+s.prefix+folder)
				if err != nil {
					return err
				}
				return w.add(folder, keys)
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		folders, w.folders = w.folders, nil
	}
	return w.names, nil
}

// walk collects what is found.
type walk struct {
	mu      sync.Mutex
	names   map[string]struct{}
	folders []string // of the next level, with their slashes
}

func (w *walk) add(folder string, keys []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range keys {
		name := folder + key
		switch {
		case checkName(strings.TrimSuffix(name, "/")) != nil: // can't be read either
		case strings.HasSuffix(name, "/"):
			w.folders = append(w.folders, name)
		default:
			w.names[name] = struct{}{}
		}
	}
	if len(w.names)+len(w.folders) > maxNames {
		return providers.Errorf(providers.Invalid, "there are more than %d names", maxNames)
	}
	return nil
}

// keys lists one folder. Vault answers an empty one as one that is not there.
func (s *store) keys(ctx context.Context, who reader, folder string) ([]string, error) {
	r := request{method: http.MethodGet, path: strings.TrimSuffix(folder, "/"), query: url.Values{"list": {"true"}}}
	a, _, err := who.do(ctx, r)
	if providers.KindOf(err) == providers.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []string
	if err := json.Unmarshal(a.Data["keys"], &keys); err != nil {
		return nil, providers.Errorf(providers.Unavailable, "%s: the answer is not a listing", r)
	}
	return keys, nil
}
