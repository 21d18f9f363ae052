package kubetest

import (
	"cmp"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Object is an API object, as JSON has it.
type Object = map[string]any

// Rule is a right. An empty field stands for every one.
type Rule struct{ Verb, Resource, Namespace, Name string }

// Request is a request that the server got.
type Request struct {
	Verb      string // get, list, watch or create
	Resource  string
	Namespace string
	Name      string // of one object, or the one that a field selector names
	Selector  string // the field selector
	Token     string
	Accept    string
}

// Fault is an answer that takes the place of the real one.
type Fault struct {
	Code   int
	Header http.Header
	Cause  metav1.CauseType // of the Status; "" is none
	Hang   bool             // no answer, until the client gives up
}

// Server is an API server. Its methods are safe for concurrent use.
type Server struct {
	URL string
	// PlainWatches makes it one from before streaming lists: such a watch is refused. Set it before the first request.
	PlainWatches bool

	http *http.Server

	mu       sync.Mutex
	more     chan struct{} // closed and replaced when something happens that a watch sends
	version  int
	objects  map[key]Object
	history  []change
	rights   map[string][]Rule // token → rights
	reviews  map[string]authenticationv1.TokenReviewStatus
	requests []Request
	fault    func(Request) *Fault
	cut      chan struct{} // closed and replaced to end every watch
	watches  int           // that have sent how things are
	issued   int           // tokens
}

type key struct{ resource, namespace, name string }

// change is an entry of the history. Its object is empty for a bookmark.
type change struct {
	version int
	kind    string // ADDED, MODIFIED, DELETED or BOOKMARK
	key     key
	object  Object
}

// NewServer starts a server on loopback, which stops with the test.
func NewServer(t testing.TB) *Server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newServer(t, l)
}

func newServer(t testing.TB, l net.Listener) *Server {
	s := &Server{
		URL:  "http://" + l.Addr().String(),
		more: make(chan struct{}), cut: make(chan struct{}), version: 100,
		objects: map[key]Object{}, rights: map[string][]Rule{}, reviews: map[string]authenticationv1.TokenReviewStatus{},
		fault: func(Request) *Fault { return nil },
	}
	s.http = &http.Server{Handler: s}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.http.Serve(l) // ends by Stop
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return s
}

// Stop ends all connections and refuses new ones, for good.
func (s *Server) Stop() { _ = s.http.Close() }

// Put creates or replaces an object and returns its resource version.
func (s *Server) Put(resource, namespace, name string, o Object) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, kind := key{resource, namespace, name}, "MODIFIED"
	if _, ok := s.objects[k]; !ok {
		kind = "ADDED"
	}
	s.objects[k] = s.happened(kind, k, o)
	return strconv.Itoa(s.version)
}

// Delete removes an object.
func (s *Server) Delete(resource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key{resource, namespace, name}
	if o, ok := s.objects[k]; ok {
		delete(s.objects, k)
		s.happened("DELETED", k, o)
	}
}

// Bookmark sends a bookmark to every watch of resource.
func (s *Server) Bookmark(resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happened("BOOKMARK", key{resource: resource}, Object{})
}

// happened adds to the history, and returns the object as it is there. The caller holds s.mu.
func (s *Server) happened(kind string, k key, o Object) Object {
	s.version++
	o = maps.Clone(o)
	metadata, _ := o["metadata"].(Object)
	metadata = maps.Clone(metadata)
	if metadata == nil {
		metadata = Object{}
	}
	metadata["resourceVersion"] = strconv.Itoa(s.version)
	if k.name != "" {
		metadata["namespace"], metadata["name"] = k.namespace, k.name
	}
	o["metadata"] = metadata
	if _, given := o["apiVersion"]; !given {
		o["apiVersion"] = "v1"
	}
	o["kind"] = kinds[k.resource]
	s.history = append(s.history, change{s.version, kind, k, o})
	close(s.more)
	s.more = make(chan struct{})
	return o
}

var kinds = map[string]string{
	"secrets": "Secret", "pods": "Pod", "events": "Event",
	"components": "Component", "configurations": "Configuration", "accesspolicies": "AccessPolicy",
}

// Allow gives whoever presents token the rights, instead of those that it had. Without any, the token is unknown.
func (s *Server) Allow(token string, rights ...Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rights[token] = rights
}

// Review sets what a token review of token says.
func (s *Server) Review(token string, status authenticationv1.TokenReviewStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reviews[token] = status
}

// Fail sets which requests fail, and how; nil is no fault.
func (s *Server) Fail(fault func(Request) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// Cut ends every watch.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.cut)
	s.cut = make(chan struct{})
}

// Requests returns the requests so far that have the verb and the resource; empty stands for every one.
func (s *Server) Requests(verb, resource string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Request
	for _, r := range s.requests {
		if (verb == "" || r.Verb == verb) && (resource == "" || r.Resource == resource) {
			found = append(found, r)
		}
	}
	return found
}

// Watches returns how many watches there have been that sent how things are.
func (s *Server) Watches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches
}

// Objects returns the objects of a resource, oldest change first.
func (s *Server) Objects(resource string) []Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list(key{resource: resource}, "")
}

// list returns the objects that match, whose key's empty parts stand for every one. The caller holds s.mu.
func (s *Server) list(k key, node string) []Object {
	var found []Object
	for other, o := range s.objects {
		if k.matches(other) && onNode(o, node) {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b Object) int { return cmp.Compare(versionOf(a), versionOf(b)) })
	return found
}

func (k key) matches(other key) bool {
	return k.resource == other.resource && (k.namespace == "" || k.namespace == other.namespace) && (k.name == "" || k.name == other.name)
}

func onNode(o Object, node string) bool {
	spec, _ := o["spec"].(Object)
	return node == "" || spec["nodeName"] == node
}

func versionOf(o Object) int {
	v, _ := strconv.Atoi(o["metadata"].(Object)["resourceVersion"].(string))
	return v
}

// allowed returns the status code that the token's rights lead to. The caller holds s.mu.
func (s *Server) allowed(r Request) int {
	rights, known := s.rights[r.Token]
	if !known || len(rights) == 0 {
		return http.StatusUnauthorized
	}
	fits := func(pattern, value string) bool { return pattern == "" || strings.EqualFold(pattern, value) }
	for _, rule := range rights {
		if fits(rule.Verb, r.Verb) && fits(rule.Resource, r.Resource) && fits(rule.Namespace, r.Namespace) && fits(rule.Name, r.Name) {
			return http.StatusOK
		}
	}
	return http.StatusForbidden
}
