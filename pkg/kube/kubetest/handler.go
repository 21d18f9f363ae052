package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r, ok := parse(hr)
	if !ok {
		fail(w, http.StatusNotFound)
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, r)
	fault, code := s.fault(r), s.allowed(r)
	s.mu.Unlock()
	switch {
	case fault != nil && fault.Hang:
		_, _ = io.Copy(io.Discard, hr.Body) // only then does the server notice that the client has gone
		<-hr.Context().Done()
	case fault != nil:
		fault.answer(w)
	case code != http.StatusOK:
		fail(w, code)
	case r.Verb == "get":
		s.get(w, r)
	case r.Verb == "list":
		s.answerList(w, r, hr.URL.Query())
	case r.Verb == "watch":
		s.watch(w, hr, r)
	case r.Resource == "tokenreviews":
		s.review(w, hr)
	case r.Resource == "serviceaccounts/token":
		s.issue(w, hr, r)
	default:
		s.create(w, hr, r)
	}
}

// parse reads /api/v1/[namespaces/NS/]RESOURCE[/NAME[/SUBRESOURCE]] or /apis/GROUP/v1/RESOURCE.
func parse(hr *http.Request) (Request, bool) {
	path := strings.Split(strings.Trim(hr.URL.EscapedPath(), "/"), "/")
	switch {
	case len(path) > 2 && path[0] == "api":
		path = path[2:]
	case len(path) > 3 && path[0] == "apis":
		path = path[3:]
	default:
		return Request{}, false
	}
	query := hr.URL.Query()
	token, _ := strings.CutPrefix(hr.Header.Get("Authorization"), "Bearer ")
	r := Request{Token: token, Accept: hr.Header.Get("Accept"), Selector: query.Get("fieldSelector")}
	if path[0] == "namespaces" && len(path) > 2 {
		r.Namespace, path = path[1], path[2:]
	}
	r.Resource = path[0]
	if len(path) > 1 {
		r.Name, _ = url.PathUnescape(path[1])
	} else if name, ok := strings.CutPrefix(r.Selector, "metadata.name="); ok {
		r.Name = name
	}
	if len(path) == 3 {
		r.Resource, path = r.Resource+"/"+path[2], path[:2] // as RBAC names a subresource
	}
	switch {
	case len(path) > 2:
		return r, false
	case hr.Method == http.MethodPost:
		r.Verb = "create"
	case hr.Method != http.MethodGet:
		return r, false
	case query.Get("watch") == "true" || query.Get("watch") == "1":
		r.Verb = "watch"
	case len(path) > 1:
		r.Verb = "get"
	default:
		r.Verb = "list"
	}
	return r, true
}

func (s *Server) get(w http.ResponseWriter, r Request) {
	s.mu.Lock()
	o, ok := s.objects[key{r.Resource, r.Namespace, r.Name}]
	encoded := shown(o, r)
	s.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound)
		return
	}
	send(w, http.StatusOK, encoded)
}

func (s *Server) answerList(w http.ResponseWriter, r Request, query url.Values) {
	s.mu.Lock()
	all := s.list(key{r.Resource, r.Namespace, r.Name}, nodeOf(r))
	metadata := Object{"resourceVersion": strconv.Itoa(s.version)}
	from, _ := strconv.Atoi(query.Get("continue"))
	all = all[min(from, len(all)):]
	if limit, _ := strconv.Atoi(query.Get("limit")); limit > 0 && len(all) > limit {
		all = all[:limit]
		metadata["continue"] = strconv.Itoa(from + limit)
	}
	items := make([]json.RawMessage, len(all))
	for i, o := range all {
		items[i] = shown(o, r)
	}
	s.mu.Unlock()
	kind := kinds[r.Resource] + "List"
	send(w, http.StatusOK, mustJSON(Object{"kind": kind, "apiVersion": "v1", "metadata": metadata, "items": items}))
}

// selects tells whether a watch is sent a change.
func (r Request) selects(c change) bool {
	if c.kind == "BOOKMARK" {
		return c.key.resource == r.Resource
	}
	return key{r.Resource, r.Namespace, r.Name}.matches(c.key) && onNode(c.object, nodeOf(r))
}

func nodeOf(r Request) string {
	node, _ := strings.CutPrefix(r.Selector, "spec.nodeName=")
	if node == r.Selector {
		return ""
	}
	return node
}

// watch streams until the client goes, or Cut.
func (s *Server) watch(w http.ResponseWriter, hr *http.Request, r Request) {
	query := hr.URL.Query()
	streamList := query.Get("sendInitialEvents") == "true"
	if streamList && s.PlainWatches {
		fail(w, http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	s.mu.Lock()
	sent, err := strconv.Atoi(query.Get("resourceVersion"))
	if err != nil || sent == 0 || streamList { // it begins with how things are
		for _, o := range s.list(key{r.Resource, r.Namespace, r.Name}, nodeOf(r)) {
			fmt.Fprintf(w, `{"type":"ADDED","object":%s}`+"\n", shown(o, r))
		}
		sent = s.version
	}
	if streamList { // the end of that is marked
		fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":%q,"apiVersion":"v1","metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n",
			kinds[r.Resource], sent)
	}
	s.watches++
	cut := s.cut
	s.mu.Unlock()
	for {
		s.mu.Lock()
		if s.cut != cut {
			s.mu.Unlock()
			return
		}
		more := s.more
		for _, c := range s.history {
			if c.version > sent && r.selects(c) {
				fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", c.kind, shown(c.object, r))
			}
		}
		sent = s.version
		s.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-more:
		case <-cut:
			return
		case <-hr.Context().Done():
			return
		}
	}
}

func (s *Server) review(w http.ResponseWriter, hr *http.Request) {
	var review authenticationv1.TokenReview
	if err := json.NewDecoder(hr.Body).Decode(&review); err != nil {
		fail(w, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	status := s.reviews[review.Spec.Token]
	s.mu.Unlock()
	// As the real one: a token for none of the audiences is not authenticated. One that knows no audiences names none.
	if status.Authenticated && len(status.Audiences) > 0 && !slices.ContainsFunc(status.Audiences, func(a string) bool { return slices.Contains(review.Spec.Audiences, a) }) {
		status = authenticationv1.TokenReviewStatus{Error: "token audiences do not match"}
	}
	review.Status = status
	review.APIVersion, review.Kind = "authentication.k8s.io/v1", "TokenReview"
	send(w, http.StatusCreated, mustJSON(review))
}

// issue makes a token whose text says what it is for, and which is not good for anything.
func (s *Server) issue(w http.ResponseWriter, hr *http.Request, r Request) {
	var asked authenticationv1.TokenRequest
	if err := json.NewDecoder(hr.Body).Decode(&asked); err != nil || asked.Spec.BoundObjectRef == nil || asked.Spec.ExpirationSeconds == nil {
		fail(w, http.StatusBadRequest)
		return
	}
	pod := asked.Spec.BoundObjectRef
	s.mu.Lock()
	s.issued++
	asked.Status.Token = fmt.Sprintf("token %d of %s/%s for %q in pod %s %s", s.issued, r.Namespace, r.Name, asked.Spec.Audiences, pod.Name, pod.UID)
	s.mu.Unlock()
	asked.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*asked.Spec.ExpirationSeconds) * time.Second))
	asked.APIVersion, asked.Kind = "authentication.k8s.io/v1", "TokenRequest"
	send(w, http.StatusCreated, mustJSON(asked))
}

func (s *Server) create(w http.ResponseWriter, hr *http.Request, r Request) {
	var o Object
	if err := json.NewDecoder(hr.Body).Decode(&o); err != nil {
		fail(w, http.StatusBadRequest)
		return
	}
	name, _ := o["metadata"].(Object)["name"].(string)
	s.Put(r.Resource, r.Namespace, name, o)
	send(w, http.StatusCreated, mustJSON(o))
}

// shown encodes an object as the request wants it. The caller holds s.mu.
func shown(o Object, r Request) json.RawMessage {
	if strings.Contains(r.Accept, "PartialObjectMetadata") {
		o = Object{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]}
	}
	return mustJSON(o)
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// fail answers with a Status, which repeats nothing of the request.
func fail(w http.ResponseWriter, code int) {
	(&Fault{Code: code}).answer(w)
}

func (f *Fault) answer(w http.ResponseWriter) {
	for name, values := range f.Header {
		w.Header()[name] = values
	}
	status := Object{
		"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": f.Code, "reason": reasons[f.Code], "message": http.StatusText(f.Code),
	}
	if f.Cause != "" {
		status["details"] = Object{"causes": []Object{{"reason": f.Cause}}}
	}
	send(w, f.Code, mustJSON(status))
}

var reasons = map[int]string{401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 422: "Invalid", 429: "TooManyRequests", 503: "ServiceUnavailable"}

func send(w http.ResponseWriter, code int, body json.RawMessage) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body)
}
