package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/keywell/keywell/pkg/component"
)

const (
	settle      = 100 * time.Millisecond // after the first sign of a change: objects are often applied several at once
	absentPause = 15 * time.Second       // until it is looked again for a kind that the API server does not know
	firstPause  = time.Second            // before what broke is begun again; doubled each time
	maxPause    = 30 * time.Second
	watchFor    = 5 * time.Minute // one stream, jittered by half
)

// objectKind is a kind of manifest, and where the API server has it if its CRD is installed.
type objectKind struct{ kind, version, resource string }

func (k objectKind) path() string { return "/apis/" + k.version + "/" + k.resource }

func manifestKinds() []objectKind {
	return []objectKind{
		{component.KindComponent, "dapr.io/v1alpha1", "components"},
		{component.KindConfiguration, "dapr.io/v1alpha1", "configurations"},
		{component.KindAccessPolicy, "keywell.dev/v1alpha1", "accesspolicies"},
	}
}

func classKind() objectKind {
	return objectKind{component.KindSecretProviderClass, "secrets-store.csi.x-k8s.io/v1", "secretproviderclasses"}
}

// ObjectsOptions configure an Objects.
type ObjectsOptions struct {
	Client    *Client // required
	Manifests bool    // follow Components, Configurations and AccessPolicies
	Classes   bool    // follow SecretProviderClasses
	// OnChange is called from Run with all objects there are, sorted, once every kind has been looked for, and then after
	// each change. Calls don't overlap. Required.
	OnChange   func([]component.Object)
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Objects follows the manifests that are objects of the cluster, of every namespace. A kind whose CRD is not installed
// has no objects, and is looked for again. While the API server is away, the last state stays.
type Objects struct {
	opts  ObjectsOptions
	kinds []*followed
	wake  chan struct{} // level trigger: something has changed
	ready chan struct{}
}

// followed is what is known of one kind.
type followed struct {
	objectKind
	gauge  prometheus.Gauge
	absent int // answers in a row that there is no such kind; its goroutine's

	mu      sync.Mutex
	seen    bool
	objects map[string]component.Object // by their String
}

// NewObjects returns an Objects that knows nothing before Run.
func NewObjects(opts ObjectsOptions) (*Objects, error) {
	if opts.Client == nil || opts.OnChange == nil {
		return nil, errors.New("objects need a Client and OnChange")
	}
	opts.Logger = orDiscard(opts.Logger)
	gauges := promauto.With(opts.Registerer).NewGaugeVec(prometheus.GaugeOpts{
		Name: "keywell_kube_objects", Help: "Manifests that are objects of the cluster, by kind.",
	}, []string{"kind"})
	o := &Objects{opts: opts, wake: make(chan struct{}, 1), ready: make(chan struct{})}
	var kinds []objectKind
	if opts.Manifests {
		kinds = manifestKinds()
	}
	if opts.Classes {
		kinds = append(kinds, classKind())
	}
	for _, k := range kinds {
		o.kinds = append(o.kinds, &followed{objectKind: k, gauge: gauges.WithLabelValues(k.kind), objects: map[string]component.Object{}})
	}
	return o, nil
}

// Ready returns a channel that is closed when OnChange has been called once.
func (o *Objects) Ready() <-chan struct{} { return o.ready }

// Run follows the API server until ctx ends, then it returns nil.
func (o *Objects) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	for _, k := range o.kinds {
		following.Go(func() { o.follow(ctx, k) })
	}
	for ready := false; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-o.wake:
		}
		if !pauseFor(ctx, settle) {
			return nil
		}
		all, complete := o.all()
		if !complete {
			continue
		}
		o.opts.OnChange(all)
		if !ready {
			ready = true
			close(o.ready)
		}
	}
}

// all returns every object, and whether every kind has been looked for.
func (o *Objects) all() (all []component.Object, complete bool) {
	complete = true
	for _, k := range o.kinds {
		k.mu.Lock()
		complete = complete && k.seen
		for _, name := range slices.Sorted(maps.Keys(k.objects)) {
			all = append(all, k.objects[name])
		}
		k.mu.Unlock()
	}
	return all, complete
}

// follow lists and watches one kind until ctx ends.
func (o *Objects) follow(ctx context.Context, k *followed) {
	log := o.opts.Logger.With("resource", k.resource)
	said, pause := "", firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := o.listAndWatch(ctx, k)
		if time.Since(began) > maxPause {
			said, pause = "", firstPause
		}
		wait := pause/2 + rand.N(pause)
		switch {
		case ctx.Err() != nil:
			return
		case apierrors.IsNotFound(err):
			k.absent++
			wait = absentPause
			if !k.isSeen() || k.absent > 1 { // an API server that is starting may not know yet what it has
				o.set(k, nil)
			}
		case apierrors.IsForbidden(err):
			o.say(log, &said, slog.LevelError, "may not list and watch objects of the cluster: grant the agent what the chart grants, or run it without --cluster-objects and --provider-sockets", err)
			wait = absentPause
		default:
			o.say(log, &said, slog.LevelWarn, "following objects of the cluster broke off, beginning again", err)
			pause = min(2*pause, maxPause)
		}
		if !pauseFor(ctx, wait) {
			return
		}
	}
}

// say logs what was not the last thing said. The API server's own words may repeat what is in an object.
func (o *Objects) say(log *slog.Logger, said *string, level slog.Level, message string, err error) {
	if reason := unavailable("list and watch", err).Error(); *said != reason {
		*said = reason
		log.Log(context.Background(), level, message, "err", reason)
	}
}

// listAndWatch returns why it can't go on.
func (o *Objects) listAndWatch(ctx context.Context, k *followed) error {
	version, err := o.list(ctx, k)
	for err == nil {
		began := time.Now()
		version, err = o.watch(ctx, k, version)
		if err == nil && time.Since(began) < firstPause { // so that a server that ends streams at once is not asked without pause
			pauseFor(ctx, firstPause)
		}
	}
	return err
}

func (o *Objects) request(k *followed) *rest.Request {
	return o.opts.Client.core.Get().AbsPath(k.path()).SetHeader("Accept", "application/json")
}

// list makes what there is the state, and returns its version.
func (o *Objects) list(ctx context.Context, k *followed) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := o.request(k).Do(ctx).Raw()
	if err != nil {
		return "", err
	}
	var answer struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []json.RawMessage `json:"items"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return "", errMalformed
	}
	objects := make(map[string]component.Object, len(answer.Items))
	for _, item := range answer.Items {
		obj, _, err := k.decode(item)
		if err != nil {
			return "", err
		}
		objects[obj.String()] = obj
	}
	k.absent = 0
	o.set(k, objects)
	return answer.Metadata.ResourceVersion, nil
}

// errMalformed holds nothing of what was read.
var errMalformed = errors.New("the API server's answer is cut off or malformed")

// watch follows one stream from a version to its end, and returns the version to go on from.
func (o *Objects) watch(ctx context.Context, k *followed, version string) (string, error) {
	seconds := int(watchFor.Seconds())/2 + rand.N(int(watchFor.Seconds()))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+maxPause)
	defer cancel()
	stream, err := o.request(k).
		Param("watch", "true").Param("allowWatchBookmarks", "true").
		Param("resourceVersion", version).Param("timeoutSeconds", strconv.Itoa(seconds)).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	return o.events(k, stream, version)
}

// events applies what a stream brings. Its end is no error.
func (o *Objects) events(k *followed, stream io.Reader, version string) (string, error) {
	for decoder := json.NewDecoder(stream); ; {
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if decoder.Decode(&e) != nil {
			return version, nil
		}
		if e.Type == "ERROR" {
			var status struct {
				Code int `json:"code"`
			}
			_ = json.Unmarshal(e.Object, &status) // zero says as much
			return "", fmt.Errorf("the watch ended with %d %s", status.Code, http.StatusText(status.Code))
		}
		obj, newer, err := k.decode(e.Object)
		if err != nil {
			return "", err
		}
		version = newer
		switch e.Type {
		case "ADDED", "MODIFIED":
			o.change(k, func(all map[string]component.Object) { all[obj.String()] = obj })
		case "DELETED":
			o.change(k, func(all map[string]component.Object) { delete(all, obj.String()) })
		}
	}
}

func (k *followed) isSeen() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen
}

func (o *Objects) set(k *followed, objects map[string]component.Object) {
	o.change(k, func(all map[string]component.Object) {
		clear(all)
		maps.Copy(all, objects)
	})
}

func (o *Objects) change(k *followed, change func(all map[string]component.Object)) {
	k.mu.Lock()
	change(k.objects)
	k.seen = true
	k.gauge.Set(float64(len(k.objects)))
	k.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// decode returns an object with nothing in it but what a manifest says: what the API server and others keep in metadata
// and status changes without meaning anything here.
func (k objectKind) decode(raw json.RawMessage) (obj component.Object, version string, err error) {
	var members map[string]json.RawMessage
	var head struct {
		Metadata struct {
			Namespace       string `json:"namespace,omitempty"`
			Name            string `json:"name"`
			ResourceVersion string `json:"resourceVersion,omitempty"`
		} `json:"metadata"`
	}
	if json.Unmarshal(raw, &members) != nil || json.Unmarshal(raw, &head) != nil {
		return component.Object{}, "", errMalformed
	}
	version = head.Metadata.ResourceVersion
	head.Metadata.ResourceVersion = ""
	maps.DeleteFunc(members, func(name string, _ json.RawMessage) bool { return strings.EqualFold(name, "status") })
	for name, value := range map[string]any{"apiVersion": k.version, "kind": k.kind, "metadata": head.Metadata} {
		if members[name], err = json.Marshal(value); err != nil {
			return component.Object{}, "", err
		}
	}
	obj = component.Object{Kind: k.kind, Namespace: head.Metadata.Namespace, Name: head.Metadata.Name}
	obj.JSON, err = json.Marshal(members)
	return obj, version, err
}

// pauseFor reports false if ctx ends first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
