// Package huaweitest is a fake of Huawei Cloud on loopback: the Cloud Secret Management Service, the Identity and Access
// Management (IAM), and the metadata service of a machine. It computes every signature (SDK-HMAC-SHA256) again, checks
// tokens against their issuer, refuses calls and parameters that it does not know, and puts the secret that was asked for
// into its error messages. Failures can be injected.
package huaweitest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keywell/keywell/internal/issuertest"
	"github.com/keywell/keywell/internal/servertest"
)

// Region is the only one, and Project the id of its project.
const (
	Region  = "ap-southeast-3"
	Project = "0605767b1a0000000000000000000001"
)

const (
	mostValue = 32 << 10
	mostPage  = 1000
)

// Server is the fake. It is safe for concurrent use.
type Server struct {
	servertest.Record
	servertest.Grants // to principals

	URL, IAM string             // both https
	Machine  string             // HOST:PORT of the metadata service
	Issuer   *issuertest.Issuer // of the pods' tokens

	mu      sync.Mutex
	skew    time.Duration      // of the fake's clock
	keys    map[string]key     // by id
	tokens  map[string]subject // by token
	secrets map[string]*entry
	agency  string // principal of the machine; empty: it has none
	oldIMDS bool
	life    time.Duration // of what IAM and the machine give
}

type entry struct {
	state    string
	versions []version // oldest first
}

type version struct {
	id, value string
	binary    bool
	stages    []string
}

// NewServer starts a server that ends with the test.
func NewServer(t testing.TB) *Server {
	s := &Server{
		Issuer: issuertest.New(), keys: map[string]key{}, tokens: map[string]subject{}, secrets: map[string]*entry{}, life: 24 * time.Hour,
	}
	s.URL = servertest.Serve(t, true, s.serveCSMS).URL
	s.IAM = servertest.Serve(t, true, s.serveIAM).URL
	s.Machine = strings.TrimPrefix(servertest.Serve(t, false, s.serveMachine).URL, "http://")
	return s
}

// Put adds a version, which becomes SYSCURRENT, and returns its id.
func (s *Server) Put(name, value string, binary bool) string {
	if len(value) > mostValue || !secretName.MatchString(name) {
		panic(fmt.Sprintf("%s: %d bytes", name, len(value)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.secrets[name]
	if e == nil {
		e = &entry{state: "ENABLED"}
		s.secrets[name] = e
	}
	e.stage("SYSPREVIOUS", e.staged("SYSCURRENT"))
	e.versions = append(e.versions, version{id: "v" + strconv.Itoa(len(e.versions)+1), value: value, binary: binary})
	e.stage("SYSCURRENT", len(e.versions)-1)
	return e.versions[len(e.versions)-1].id
}

// Stage moves a stage to a version.
func (s *Server) Stage(name, stage, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.secrets[name]
	e.stage(stage, slices.IndexFunc(e.versions, func(v version) bool { return v.id == id }))
}

// staged returns the index of the version in a stage; -1: none.
func (e *entry) staged(stage string) int {
	return slices.IndexFunc(e.versions, func(v version) bool { return slices.Contains(v.stages, stage) })
}

// stage moves a stage to a version.
func (e *entry) stage(stage string, to int) {
	for i := range e.versions {
		v := &e.versions[i]
		v.stages = slices.DeleteFunc(v.stages, func(has string) bool { return has == stage })
		if i == to {
			v.stages = append(v.stages, stage)
		}
	}
}

// SetState makes a secret "DISABLED", or "PENDING_DELETE".
func (s *Server) SetState(name, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets[name].state = state
}

// Delete removes a secret.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.secrets, name)
}

// Skew puts the fake's clock forward.
func (s *Server) Skew(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew = by
}

var (
	secretName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)
	path       = regexp.MustCompile(`^/v1/([^/]+)/secrets(?:/([^/]+)/(versions|stages)(?:/([^/]+))?)?$`)
)

func (s *Server) serveCSMS(w http.ResponseWriter, r *http.Request) {
	s.date(w)
	p := path.FindStringSubmatch(r.URL.Path)
	if p == nil || r.Method != http.MethodGet {
		refuse(w, http.StatusNotFound, "APIG.0101", "The API does not exist")
		return
	}
	who, err := s.authenticate(r)
	if err != nil || p[1] != Project || who.project != "" && who.project != Project {
		refuse(w, http.StatusUnauthorized, "APIG.0301", "Incorrect IAM authentication information: "+fmt.Sprint(err))
		return
	}
	action := map[string]string{"": "ListSecrets", "versions": "ListSecretVersions", "stages": "ShowSecretStage"}[p[3]]
	if p[3] == "versions" && p[4] != "" {
		action = "ShowSecretVersion"
	}
	call := servertest.Call{Action: action, Name: p[2], Principal: who.principal}
	fault := s.Note(call)
	s.mu.Lock()
	out, code := s.do(action, p[2], p[4], r.URL.Query())
	s.mu.Unlock()
	text := fmt.Sprint(out)
	switch {
	case fault != nil && fault.Break(w, r, `{"version":{"secret_string":"`, text):
	case fault != nil:
		refuse(w, fault.Status, fault.Code, text)
	case !s.May(call):
		refuse(w, http.StatusForbidden, "", "Policy doesn't allow it: "+text)
	case code != "":
		refuse(w, http.StatusBadRequest, code, p[2])
	default:
		answer(w, http.StatusOK, out)
	}
}

// do returns an answer, or the code of a refusal.
func (s *Server) do(action, name, selector string, query url.Values) (map[string]any, string) {
	if action == "ListSecrets" {
		return s.list(query)
	}
	e := s.secrets[name]
	switch {
	case len(query) > 0 || !secretName.MatchString(name):
		return nil, "CSMS.0002"
	case e == nil:
		return nil, "CSMS.0106"
	case e.state != "ENABLED" && action == "ShowSecretVersion", e.state == "PENDING_DELETE":
		return nil, "CSMS.0103"
	case action == "ShowSecretStage":
		i := e.staged(selector)
		if i < 0 {
			return nil, "CSMS.0005"
		}
		return map[string]any{"stage": map[string]any{"name": selector, "secret_name": name, "version_id": e.versions[i].id}}, ""
	case action == "ListSecretVersions":
		all := []any{}
		for _, v := range e.versions {
			all = append(all, metadata(name, v))
		}
		return map[string]any{"version_metadatas": all, "page_info": map[string]any{"current_count": len(all)}}, ""
	}
	i := len(e.versions) - 1
	if selector != "latest" {
		i = slices.IndexFunc(e.versions, func(v version) bool { return v.id == selector })
	}
	if i < 0 {
		return nil, "CSMS.0005"
	}
	v := e.versions[i]
	out := map[string]any{"version_metadata": metadata(name, v), "secret_string": v.value}
	if v.binary {
		delete(out, "secret_string")
		out["secret_binary"] = base64.StdEncoding.EncodeToString([]byte(v.value))
	}
	return map[string]any{"version": out}, ""
}

func metadata(name string, v version) map[string]any {
	return map[string]any{
		"id": v.id, "create_time": int64(1_700_000_000_000), "kms_key_id": "b168fe00ff56492495a7d22974df2d0b", "secret_name": name,
		"version_stages": append([]string{}, v.stages...),
	}
}

// list returns a page: a marker is the last name of one page and the first of the next.
func (s *Server) list(query url.Values) (map[string]any, string) {
	limit := 50
	for name, values := range query {
		var err error
		switch name {
		case "limit":
			limit, err = strconv.Atoi(values[0])
		case "marker":
			if !secretName.MatchString(values[0]) {
				return nil, "CSMS.0002"
			}
		default:
			return nil, "CSMS.0002"
		}
		if err != nil || limit < 1 || limit > mostPage || len(values) != 1 {
			return nil, "CSMS.0002"
		}
	}
	var names []string
	for name := range s.secrets {
		if name >= query.Get("marker") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	page := names[:min(limit, len(names))]
	info := map[string]any{"current_count": len(page)}
	if len(names) > limit {
		info["next_marker"] = page[limit-1]
	}
	all := []any{}
	for _, name := range page {
		all = append(all, map[string]any{"id": "id-" + name, "name": name, "state": s.secrets[name].state, "secret_type": "COMMON"})
	}
	return map[string]any{"secrets": all, "page_info": info}, ""
}
