package kubernetes

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// streamFor is how long a stream lasts, jittered by half: so long may a watch go on after its pod, or the pod's right,
// is gone.
const streamFor = 5 * time.Minute

// event is what a watch stream consists of. Source:
// https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.
type event struct {
	Type   string `json:"type"`
	Object struct {
		Code     int `json:"code"` // of a Status
		Metadata struct {
			Name            string `json:"name"`
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	} `json:"object"`
}

// watch follows one stream to its end, which is nil where the API server ended it as agreed.
//
// A stream begins with every secret that there is, and a bookmark. That is compared with what was read: what differs
// changed while nobody watched, and so did what was read and is not there. API servers without streaming lists send the
// bookmark about a minute later, which is how long a deletion can go unseen there.
func (s *store) watch(ctx context.Context, t target, token secret.Value, report func(string)) error {
	seconds := int(streamFor.Seconds())/2 + rand.N(int(streamFor.Seconds()))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+longestPause)
	defer cancel()
	r := request{owner: t.owner, token: token, accept: acceptMetadata, query: watchQuery(t, seconds)}
	body, err := s.begin(ctx, r)
	if err != nil {
		return err
	}
	defer body.Close()
	begin := beginning{store: s, target: t, there: map[string]bool{}}
	for decoder := json.NewDecoder(body); ; {
		var e event
		if decoder.Decode(&e) != nil { // the end of the stream is no error; what else broke it shows when it is begun again
			return nil
		}
		name, version := e.Object.Metadata.Name, e.Object.Metadata.ResourceVersion
		switch e.Type {
		case "ADDED", "MODIFIED":
		case "DELETED":
			version = ""
		case "BOOKMARK":
			begin.end(report)
			continue
		default:
			return refusal(r, e.Object.Code, http.Header{})
		}
		if begin.differs(name, version) {
			report(name)
		}
	}
}

// begin opens a stream that begins with a list, where the API server knows how (Kubernetes 1.32, KEP-3157).
func (s *store) begin(ctx context.Context, r request) (io.ReadCloser, error) {
	if !s.plainWatches.Load() {
		listing := r
		listing.query = maps.Clone(r.query)
		listing.query.Set("sendInitialEvents", "true")
		listing.query.Set("resourceVersionMatch", "NotOlderThan")
		body, err := s.client.open(ctx, listing)
		if providers.KindOf(err) != providers.Invalid {
			return body, err
		}
		s.plainWatches.Store(true)
	}
	return s.client.open(ctx, r)
}

func watchQuery(t target, seconds int) url.Values {
	q := url.Values{"watch": {"true"}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(seconds)}}
	if t.name != "" {
		q.Set("fieldSelector", "metadata.name="+t.name)
	}
	return q
}

// beginning tells the first events of a stream, which say how things are, from the others, which say what changes.
type beginning struct {
	store  *store
	target target
	there  map[string]bool // names that were said to exist; nil when the beginning is over
}

// differs tells whether an event says something that a reader does not know yet. An empty version is a deletion.
func (b *beginning) differs(name, version string) bool {
	read, known := b.store.interest.known(b.target.owner, name)
	if b.there != nil {
		b.there[name] = true
		return known && read.version != version
	}
	return !known || read.version != version
}

// end reports what was read and is not there any more.
func (b *beginning) end(report func(string)) {
	if b.there == nil {
		return
	}
	for _, name := range b.store.interest.present(b.target) {
		if !b.there[name] {
			report(name)
		}
	}
	b.there = nil
}
