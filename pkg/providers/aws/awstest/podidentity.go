package awstest

import (
	"encoding/json"
	"net/http"
	"time"
)

// PodIdentityService is whom a role has to trust for EKS to give it to pods.
const PodIdentityService = "pods.eks.amazonaws.com"

// PodIdentityURL is where the EKS Pod Identity Agent answers.
func (s *Server) PodIdentityURL() string { return s.URL + podIdentityPath }

const podIdentityPath = "/v1/credentials"

// Associate gives a role to the pods of a service account, known by the subject of its tokens.
func (s *Server) Associate(subject, role string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.associations[subject] = role
}

// servePodIdentity is the EKS Pod Identity Agent, together with EKS Auth, whose errors it passes on as text.
func (s *Server) servePodIdentity(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("Authorization")
	subject, err := s.tokens.Verify(token, PodIdentityService)
	s.mu.Lock()
	role, known := s.associations[subject]
	fault := s.note(Call{Action: "eks-auth:AssumeRoleForPodIdentity", Names: []string{role}})
	s.mu.Unlock()
	switch {
	case fault != nil && fault.Hang:
		<-r.Context().Done()
	case fault != nil && fault.Status == 0:
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte(`{"AccessKeyId":"` + token))
	case fault != nil:
		http.Error(w, "("+fault.Code+"): "+token, fault.Status)
	case r.Method != http.MethodGet || r.URL.RawQuery != "":
		http.Error(w, "unknown request", http.StatusNotFound)
	case err != nil:
		http.Error(w, "(InvalidTokenException): "+err.Error()+" of "+token, http.StatusBadRequest)
	case !known:
		http.Error(w, "(ResourceNotFoundException): no association for "+token, http.StatusNotFound)
	default:
		given, err := s.assume(role, PodIdentityService)
		if err != nil {
			http.Error(w, "(AccessDeniedException): "+token, http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{
			"AccessKeyId": given.AccessKeyId, "SecretAccessKey": given.SecretAccessKey, "Token": given.SessionToken,
			"AccountId": Account, "Expiration": given.Expiration.Format(time.RFC3339Nano),
		})
	}
}
