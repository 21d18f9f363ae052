package conjurtest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/keywell/keywell/internal/servertest"
)

const (
	longestQuery = 10 << 10 // of Puma, Conjur's web server
	longestPage  = 1000     // CONJUR_API_RESOURCE_LIST_LIMIT_MAX
)

// serve finds out what a request is. IDs are one segment each, with their slashes escaped.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	var segments []string
	for part := range strings.SplitSeq(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/") {
		segment, err := url.PathUnescape(part)
		if err != nil {
			refuse(w, http.StatusBadRequest, part)
			return
		}
		segments = append(segments, segment)
	}
	route := r.Method
	for i, segment := range segments {
		if i == 0 || segment == Account || segment == "variable" || segment == "authenticate" {
			route += " " + segment
		} else {
			route += " *"
		}
	}
	if len(r.URL.RawQuery) > longestQuery {
		refuse(w, http.StatusRequestURITooLong, "the query is too long")
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		refuse(w, http.StatusBadRequest, r.URL.RawQuery)
		return
	}
	switch parameters := strings.Join(slices.Sorted(maps.Keys(query)), " "); route + "?" + parameters {
	case "POST authn " + Account + " * authenticate?":
		s.enter(w, r, servertest.Call{Action: "authn", Name: segments[2]}, func() { s.serveKey(w, r, segments[2]) })
	case "POST authn-jwt * " + Account + " authenticate?":
		s.enter(w, r, servertest.Call{Action: "authn-jwt"}, func() { s.serveJWT(w, r, segments[1], "") })
	case "POST authn-jwt * " + Account + " * authenticate?":
		s.enter(w, r, servertest.Call{Action: "authn-jwt", Name: segments[3]}, func() { s.serveJWT(w, r, segments[1], segments[3]) })
	case "GET secrets " + Account + " variable *?", "GET secrets " + Account + " variable *?version":
		s.as(w, r, servertest.Call{Action: "read", Name: segments[3]}, func(login string) { s.serveRead(w, login, segments[3], query) })
	case "GET secrets?variable_ids":
		names := strings.Split(query.Get("variable_ids"), ",")
		for i, id := range names {
			names[i] = strings.TrimPrefix(id, Account+":variable:")
		}
		c := servertest.Call{Action: "batch", Name: strings.Join(names, ",")}
		s.as(w, r, c, func(login string) { s.serveBatch(w, r, login, names) })
	case "GET resources " + Account + " variable?limit offset":
		s.as(w, r, servertest.Call{Action: "list"}, func(login string) { s.serveList(w, login, query) })
	case "GET resources " + Account + " variable *?check privilege":
		s.as(w, r, servertest.Call{Action: "check", Name: segments[3]}, func(login string) { s.serveCheck(w, login, segments[3], query) })
	default:
		refuse(w, http.StatusNotFound, "no route matches "+route)
	}
}

// as serves a call that needs an access token.
func (s *Server) as(w http.ResponseWriter, r *http.Request, c servertest.Call, serve func(login string)) {
	login, ok := s.authenticate(r)
	c.Principal = login
	s.enter(w, r, c, func() {
		if !ok {
			http.Error(w, "Unauthorized: Invalid token "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			return
		}
		serve(login)
	})
}

// enter counts a call, and fails it if it is to.
func (s *Server) enter(w http.ResponseWriter, r *http.Request, c servertest.Call, serve func()) {
	fault := s.Note(c)
	if fault == nil {
		serve()
		return
	}
	s.mu.Lock()
	var text string
	for name := range strings.SplitSeq(c.Name, ",") {
		if v := s.variables[name]; v != nil {
			text += v.versions[v.latest]
		}
	}
	s.mu.Unlock()
	if !fault.Break(w, r, "", text) {
		refuse(w, fault.Status, text)
	}
}

func (s *Server) serveRead(w http.ResponseWriter, login, name string, query url.Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.may(login, name, "") {
		refuse(w, http.StatusNotFound, "CONJ00076E Variable "+name+" is empty or not found.")
		return
	}
	v := s.variables[name]
	number := v.latest
	if query.Has("version") {
		var err error
		if number, err = strconv.Atoi(query.Get("version")); err != nil {
			refuse(w, http.StatusUnprocessableEntity, "invalid type for parameter 'version': "+v.versions[v.latest])
			return
		}
	}
	value, found := v.versions[number]
	switch {
	case !s.may(login, name, "execute"):
		refuse(w, http.StatusForbidden, "")
	case v.ttl != 0:
		v.latest++
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"id": "%d", "ttl": %d, "data": {"access_key_id": "c4n4ry-%d"}}`, v.latest, v.ttl/time.Second, v.latest)
	case !found:
		refuse(w, http.StatusNotFound, "CONJ00076E Variable "+name+" is empty or not found, not "+v.versions[v.latest])
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = io.WriteString(w, value)
	}
}

func (s *Server) serveBatch(w http.ResponseWriter, r *http.Request, login string, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	encode := r.Header.Get("Accept-Encoding") == "base64"
	values := map[string]string{}
	missing := false
	for _, name := range names {
		v := s.variables[name]
		switch {
		case v == nil || len(v.versions) == 0: // and what is dynamic, of which Conjur issues some at a time only
			missing = true
		case !s.may(login, name, "execute"):
			refuse(w, http.StatusForbidden, "")
			return
		case encode:
			values[Account+":variable:"+name] = rubyBase64(v.versions[v.latest])
		case !utf8.ValidString(v.versions[v.latest]):
			refuse(w, http.StatusNotAcceptable, v.versions[v.latest])
			return
		default:
			values[Account+":variable:"+name] = v.versions[v.latest]
		}
	}
	if missing {
		refuse(w, http.StatusNotFound, "CONJ00076E Variable is empty or not found.")
		return
	}
	if encode {
		w.Header().Set("Content-Encoding", "base64")
	}
	answer(w, values)
}

// rubyBase64 is Base64.encode64, which breaks lines.
func rubyBase64(value string) string {
	var b strings.Builder
	for line := range slices.Chunk([]byte(value), 45) {
		b.WriteString(base64.StdEncoding.EncodeToString(line) + "\n")
	}
	return b.String()
}

func (s *Server) serveList(w http.ResponseWriter, login string, query url.Values) {
	limit, errLimit := strconv.Atoi(query.Get("limit"))
	offset, errOffset := strconv.Atoi(query.Get("offset"))
	if errLimit != nil || errOffset != nil || limit < 1 || limit > longestPage || offset < 0 {
		refuse(w, http.StatusUnprocessableEntity, "'limit' or 'offset' contains an invalid value.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	page := []any{}
	for _, name := range slices.Sorted(maps.Keys(s.variables)) {
		if s.may(login, name, "") {
			page = append(page, s.resource(name))
		}
	}
	answer(w, page[min(offset, len(page)):min(offset+limit, len(page))])
}

// resource is a variable as Conjur describes it. s.mu is held.
func (s *Server) resource(name string) map[string]any {
	permissions, versions := []any{}, []any{}
	for _, privilege := range []string{"execute", "read", "update"} {
		for _, role := range s.permitted(name, privilege) {
			permissions = append(permissions, map[string]string{"privilege": privilege, "role": roleID(role), "policy": Account + ":policy:root"})
		}
	}
	for _, number := range slices.Sorted(maps.Keys(s.variables[name].versions)) {
		versions = append(versions, map[string]any{"version": number, "expires_at": nil})
	}
	return map[string]any{
		"id": Account + ":variable:" + name, "owner": Account + ":policy:root", "policy": Account + ":policy:root", "annotations": []any{},
		"created_at": "2026-11-26T12:00:00.000+00:00", "permissions": permissions, "secrets": versions,
	}
}

func (s *Server) serveCheck(w http.ResponseWriter, login, name string, query url.Values) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if query.Get("check") != "true" || !s.may(login, name, query.Get("privilege")) {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func answer(w http.ResponseWriter, out any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(out)
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": "error", "message": text}})
}
