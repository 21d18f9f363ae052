package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keywell/keywell/pkg/scope"
)

// Reason says in one word what happened to a pod, as kubectl describe shows it.
type Reason string

// The reasons.
const (
	Rotated     Reason = "SecretsRotated"           // a volume has new content
	Denied      Reason = "SecretDenied"             // a rule keeps a secret from the pod
	StoreDown   Reason = "SecretStoreDown"          // a store does not answer, and the pod gets old content or none
	Missing     Reason = "SecretNotFound"           // a store does not have what the pod asks for
	Invalid     Reason = "SecretsInvalid"           // the pod's volume asks for what can't be
	NoLocalhost Reason = "SecretsAPINotOnLocalhost" // the pod asks for the API in its network namespace, and does not get it
)

// kind returns the type of an event, in the words of Kubernetes.
func (r Reason) kind() string {
	if r == Rotated {
		return corev1.EventTypeNormal
	}
	return corev1.EventTypeWarning
}

// Event is something that the owner of a pod should see.
type Event struct {
	Pod     scope.Identity // an event without a namespace, name or UID of a pod is dropped: it has no place
	Reason  Reason
	Message string // what happened and what to do about it; cut after 1024 bytes. It never holds a value.
}

const (
	eventQueue    = 256              // events that wait to be written
	eventsPerSec  = 5                // written by this node, after a burst
	eventBurst    = 25               //
	maxEventBytes = 1024             // of a message; the API's limit for notes (events.k8s.io/v1)
	maxSeries     = 2048             // of pod and reason that are remembered
	repeatPause   = 5 * time.Minute  // before the same is said of a pod again; doubled each time
	changePause   = 10 * time.Second // before something else is said for the same reason; doubled each time
	longestPause  = time.Hour        // the API server forgets an event after that
	reporter      = "keywell"
)

// EventsOptions configure an Events.
type EventsOptions struct {
	Client     *Client               // required
	Node       string                // this node's name in Kubernetes; required
	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// Events writes events on pods. It needs the right to create events and no other: a repetition is another event, with
// the number of times that it stands for. It is safe for concurrent use.
type Events struct {
	opts    EventsOptions
	queue   chan Event
	limit   *rate.Limiter
	results *prometheus.CounterVec
	said    map[topic]*series // for Run only
}

// topic is what repetitions are counted by.
type topic struct {
	podUID string
	reason Reason
}

// series is what has been said about a topic.
type series struct {
	message string
	at      time.Time     // when it was said last
	repeat  time.Duration // until the same is said again
	change  time.Duration // until something else is said
	since   time.Time     // when it happened first, of what has not been said
	unsaid  int32         // how often it happened since it was said
}

// NewEvents returns an Events that writes nothing before Run.
func NewEvents(opts EventsOptions) (*Events, error) {
	if opts.Client == nil || opts.Node == "" {
		return nil, errors.New("events need a Client and a Node")
	}
	opts.Logger = orDiscard(opts.Logger)
	return &Events{
		opts:  opts,
		queue: make(chan Event, eventQueue),
		limit: rate.NewLimiter(eventsPerSec, eventBurst),
		results: promauto.With(opts.Registerer).NewCounterVec(prometheus.CounterOpts{
			Name: "keywell_kube_events_total",
			Help: "Events on pods, by result: written, repeated (counted, not written), dropped (too many at once), failed.",
		}, []string{"result"}),
		said: map[topic]*series{},
	}, nil
}

// Emit hands an event over. It never blocks; an event that finds the queue full is dropped and counted.
func (e *Events) Emit(ev Event) {
	if ev.Pod.Namespace == "" || ev.Pod.Pod == "" || ev.Pod.PodUID == "" {
		return
	}
	select {
	case e.queue <- ev:
	default:
		e.results.WithLabelValues("dropped").Inc()
	}
}

// Run writes events until ctx ends; then it returns nil. What waits then is lost.
func (e *Events) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-e.queue:
			now := time.Now()
			s, due := e.due(ev, now)
			if !due {
				e.results.WithLabelValues("repeated").Inc()
				continue
			}
			if e.limit.Wait(ctx) != nil {
				return nil
			}
			e.write(ctx, ev, s.since, s.unsaid, now)
		}
	}
}

// due tells whether ev is to be written now, and what it stands for. Messages that differ each time are held back too,
// though for less long.
func (e *Events) due(ev Event, now time.Time) (series, bool) {
	t := topic{ev.Pod.PodUID, ev.Reason}
	s := e.said[t]
	if s == nil || now.Sub(s.at) > 2*longestPause {
		e.makeRoom(now)
		s = &series{repeat: repeatPause, change: changePause}
		e.said[t] = s
	}
	if s.unsaid++; s.unsaid == 1 {
		s.since = now
	}
	pause := &s.change
	if ev.Message == s.message {
		pause = &s.repeat
	}
	if !s.at.IsZero() {
		if now.Before(s.at.Add(*pause)) {
			return series{}, false
		}
		*pause = min(2**pause, longestPause)
	}
	happened := *s
	s.message, s.at, s.unsaid = ev.Message, now, 0
	return happened, true
}

// makeRoom forgets what is long past and, if there is still too much, everything.
func (e *Events) makeRoom(now time.Time) {
	if len(e.said) < maxSeries {
		return
	}
	for t, s := range e.said {
		if now.Sub(s.at) > longestPause {
			delete(e.said, t)
		}
	}
	if len(e.said) >= maxSeries {
		clear(e.said)
	}
}

func (e *Events) write(ctx context.Context, ev Event, since time.Time, count int32, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := e.opts.Client.core.Post().Resource("events").Namespace(ev.Pod.Namespace).MaxRetries(0).
		Body(e.object(ev, since, count, now)).Do(ctx).Error()
	if err != nil {
		e.results.WithLabelValues("failed").Inc()
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return // nobody will look for events there
		}
		e.opts.Logger.Warn("event not written", "namespace", ev.Pod.Namespace, "pod", ev.Pod.Pod, "reason", string(ev.Reason), "err", unavailable("create an event", err))
		return
	}
	e.results.WithLabelValues("written").Inc()
}

func (e *Events) object(ev Event, since time.Time, count int32, now time.Time) *corev1.Event {
	message := ev.Message
	if len(message) > maxEventBytes {
		message = strings.ToValidUTF8(message[:maxEventBytes], "")
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: ev.Pod.Namespace, Name: eventName(ev.Pod.Pod, now)},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: ev.Pod.Namespace, Name: ev.Pod.Pod, UID: types.UID(ev.Pod.PodUID),
		},
		Type: ev.Reason.kind(), Reason: string(ev.Reason), Message: message,
		Count: count, FirstTimestamp: metav1.NewTime(since), LastTimestamp: metav1.NewTime(now),
		Source:              corev1.EventSource{Component: reporter, Host: e.opts.Node},
		ReportingController: reporter, ReportingInstance: e.opts.Node,
	}
}

// eventName names an event as client-go does, by the pod and the time, which no two events of a pod share. A pod's name
// may be as long as an event's.
func eventName(pod string, now time.Time) string {
	const longestPod = 230
	pod = strings.TrimRight(pod[:min(len(pod), longestPod)], "-.")
	return fmt.Sprintf("%s.%x", pod, now.UnixNano())
}
