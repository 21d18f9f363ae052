package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/keywell/keywell/pkg/scope"
)

// Annotations of pods. Source of Dapr's: pkg/injector/annotations. The app id is by default the pod's name.
const (
	appIDAnnotation   = "dapr.io/app-id"
	sidecarAnnotation = "dapr.io/enabled"
	apiAnnotation     = "keywell.dev/api" // how the pod wants to call the API; see package localhost
)

// configAnnotation names the Dapr Configuration, of the pod's namespace, that is for a pod. Source: as above.
const configAnnotation = "dapr.io/config"

// newPod is how much later than the kubelet the agent may hear of a pod.
const newPod = 2 * time.Second

// annotationPrefixes are those of the annotations that are kept.
var annotationPrefixes = [...]string{"dapr.io/", "keywell.dev/"}

// Pod is what is kept of a pod.
type Pod struct {
	Namespace, Name, UID, ServiceAccount string
	// Annotations are those of dapr.io and keywell.dev: annotation name → value. They must not be changed.
	Annotations map[string]string
	Deleting    bool // its deletion has been asked for; its containers may still run
	Ended       bool // its containers have ended for good
}

// AppID returns the pod's Dapr app id.
func (p Pod) AppID() string {
	if id := p.Annotations[appIDAnnotation]; id != "" {
		return id
	}
	return p.Name
}

// API returns what the pod's annotation says of how it wants to call the API. Empty: nothing.
func (p Pod) API() string { return p.Annotations[apiAnnotation] }

// HasSidecar tells whether Dapr puts a sidecar into the pod, which listens where a sidecar does. Source: Dapr,
// utils.IsTruthy.
func (p Pod) HasSidecar() bool {
	switch strings.ToLower(strings.TrimSpace(p.Annotations[sidecarAnnotation])) {
	case "y", "yes", "true", "t", "on", "1":
		return true
	default:
		return false
	}
}

// PodsOptions configure a Pods.
type PodsOptions struct {
	Client     *Client               // required
	Node       string                // this node's name in Kubernetes; required
	Deleted    func(Pod)             // called when a pod is gone from the API; must not block; nil: nobody wants to know
	Changed    func()                // called when anything of any pod may have changed; must not block; nil: nobody wants to know
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Pods knows the pods of this node, as far as the API server has told. It is safe for concurrent use.
type Pods struct {
	opts      PodsOptions
	ready     chan struct{}
	readyOnce sync.Once

	known struct {
		sync.RWMutex
		byUID map[string]Pod
		more  chan struct{} // closed and replaced when a pod is added
	}
}

// NewPods returns a Pods that knows none before Run.
func NewPods(opts PodsOptions) (*Pods, error) {
	if opts.Client == nil || opts.Node == "" {
		return nil, errors.New("pods need a Client and a Node")
	}
	if opts.Deleted == nil {
		opts.Deleted = func(Pod) {}
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	opts.Logger = orDiscard(opts.Logger)
	p := &Pods{opts: opts, ready: make(chan struct{})}
	p.known.byUID, p.known.more = map[string]Pod{}, make(chan struct{})
	promauto.With(opts.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keywell_kube_pods",
		Help: "Pods of this node that the agent knows.",
	}, p.count)
	return p, nil
}

// Run follows the API server until ctx ends, then it returns nil. What is known stays while the API server is down.
func (p *Pods) Run(ctx context.Context) error {
	log := logr.FromSlogHandler(p.opts.Logger.Handler())
	ofNode := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", p.opts.Node).String()
	}
	source := cache.NewFilteredListWatchFromClient(p.opts.Client.core, "pods", metav1.NamespaceAll, ofNode)
	reflector := cache.NewReflectorWithOptions(source, &corev1.Pod{}, (*podStore)(p), cache.ReflectorOptions{Name: "pods", Logger: &log})
	reflector.RunWithContext(klog.NewContext(ctx, log))
	return nil
}

// Ready returns a channel that is closed once the pods of this node are known.
func (p *Pods) Ready() <-chan struct{} { return p.ready }

// Get returns the pod with a UID, and whether there is one on this node.
func (p *Pods) Get(uid string) (Pod, bool) {
	p.known.RLock()
	defer p.known.RUnlock()
	pod, ok := p.known.byUID[uid]
	return pod, ok
}

// All returns the pods of this node, in no order.
func (p *Pods) All() []Pod {
	p.known.RLock()
	defer p.known.RUnlock()
	return slices.Collect(maps.Values(p.known.byUID))
}

// Identify returns the identity of the pod with a UID, for a caller that is known to be that pod. The error is a
// *RefusedError if the pod is gone, or has ended.
func (p *Pods) Identify(uid string) (scope.Identity, error) {
	pod, ok := p.Get(uid)
	switch {
	case !ok:
		return scope.Identity{}, refused("the pod with UID %s is gone or not known yet", uid)
	case pod.Ended:
		return scope.Identity{}, refused("pod %s/%s has ended", pod.Namespace, pod.Name)
	}
	return pod.identity(), nil
}

func (p Pod) identity() scope.Identity {
	return scope.Identity{
		Namespace: p.Namespace, ServiceAccount: p.ServiceAccount, Pod: p.Name, PodUID: p.UID,
		AppID: p.AppID(), Configuration: p.Annotations[configAnnotation],
	}
}

// Known returns the identity of the pod that the kubelet has said id is, with what its annotations add. It waits a
// little for a pod that is new: the kubelet may have heard of it first. It is an error that
// the pod is not known: neither is then what its annotations take away from it.
func (p *Pods) Known(id scope.Identity) (scope.Identity, error) {
	limit := time.NewTimer(newPod)
	defer limit.Stop()
	for {
		pod, ok, more := p.get(id.PodUID)
		switch {
		case ok && pod.is(id):
			return pod.identity(), nil
		case ok:
			return scope.Identity{}, fmt.Errorf("the pod with UID %s is not %s/%s with service account %q", pod.UID, id.Namespace, id.Pod, id.ServiceAccount)
		}
		select {
		case <-more:
		case <-limit.C:
			return scope.Identity{}, fmt.Errorf("the agent has not heard of pod %s/%s from the API server yet; the kubelet tries again", id.Namespace, id.Pod)
		}
	}
}

func (p *Pods) get(uid string) (pod Pod, ok bool, more <-chan struct{}) {
	p.known.RLock()
	defer p.known.RUnlock()
	pod, ok = p.known.byUID[uid]
	return pod, ok, p.known.more
}

// Renew returns id, which was attested before, with what the pod's annotations say now. Where the pod is not known, it
// is as it was.
func (p *Pods) Renew(id scope.Identity) scope.Identity {
	if pod, ok := p.Get(id.PodUID); ok && pod.is(id) {
		return pod.identity()
	}
	return id
}

// is tells whether id is one of the pod, its app id aside.
func (p Pod) is(id scope.Identity) bool {
	return p.Namespace == id.Namespace && p.Name == id.Pod && p.ServiceAccount == id.ServiceAccount && p.UID == id.PodUID
}

func (p *Pods) count() float64 {
	p.known.RLock()
	defer p.known.RUnlock()
	return float64(len(p.known.byUID))
}

// podStore is what the reflector sees of a Pods.
type podStore Pods

var _ cache.ReflectorStore = (*podStore)(nil)

func (s *podStore) Add(obj any) error { return s.Update(obj) }

func (s *podStore) Update(obj any) error {
	pod, err := reduce(obj)
	if err != nil {
		return err
	}
	s.known.Lock()
	_, known := s.known.byUID[pod.UID]
	s.known.byUID[pod.UID] = pod
	if !known {
		s.announce()
	}
	s.known.Unlock()
	s.opts.Changed()
	return nil
}

// announce wakes who waits for a pod. The caller holds s.known.
func (s *podStore) announce() {
	close(s.known.more)
	s.known.more = make(chan struct{})
}

func (s *podStore) Delete(obj any) error {
	pod, err := reduce(obj)
	if err != nil {
		return err
	}
	s.known.Lock()
	_, ok := s.known.byUID[pod.UID]
	delete(s.known.byUID, pod.UID)
	s.known.Unlock()
	if ok {
		s.opts.Deleted(pod)
	}
	s.opts.Changed()
	return nil
}

func (s *podStore) Replace(objs []any, _ string) error {
	now := make(map[string]Pod, len(objs))
	for _, obj := range objs {
		pod, err := reduce(obj)
		if err != nil {
			return err
		}
		now[pod.UID] = pod
	}
	s.known.Lock()
	before := s.known.byUID
	s.known.byUID = now
	s.announce()
	s.known.Unlock()
	s.readyOnce.Do(func() { close(s.ready) })
	for uid, pod := range before {
		if _, ok := now[uid]; !ok {
			s.opts.Deleted(pod)
		}
	}
	s.opts.Changed()
	return nil
}

func (s *podStore) Resync() error { return nil }

// reduce copies what is kept of a pod, so that the rest can be collected.
func reduce(obj any) (Pod, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return Pod{}, fmt.Errorf("watch of pods brought a %T", obj)
	}
	return Pod{
		Namespace:      pod.Namespace,
		Name:           pod.Name,
		UID:            string(pod.UID),
		ServiceAccount: pod.Spec.ServiceAccountName,
		Annotations:    ours(pod.Annotations),
		Deleting:       pod.DeletionTimestamp != nil,
		Ended:          pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
	}, nil
}

// ours returns the annotations that are kept, nil if there are none.
func ours(all map[string]string) map[string]string {
	var kept map[string]string
	for name, value := range all {
		for _, prefix := range annotationPrefixes {
			if strings.HasPrefix(name, prefix) {
				if kept == nil {
					kept = map[string]string{}
				}
				kept[name] = value
			}
		}
	}
	return kept
}
