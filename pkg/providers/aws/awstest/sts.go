package awstest

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// serveSTS does AssumeRole, which is signed, and AssumeRoleWithWebIdentity, which is not.
func (s *Server) serveSTS(w http.ResponseWriter, r *http.Request, body []byte, now time.Time) {
	form, err := url.ParseQuery(string(body))
	if err != nil || form.Get("Version") != "2011-06-15" {
		answerXML(w, "", nil, refuse("InvalidAction", "not a query of 2011-06-15"))
		return
	}
	action, role := form.Get("Action"), form.Get("RoleArn")
	c := Call{Action: "sts:" + action, Names: []string{role}}
	var subject string
	switch action {
	case "AssumeRoleWithWebIdentity":
		if r.Header.Get("Authorization") != "" {
			err = refuse("SignatureDoesNotMatch", "this action takes no signature")
		} else if subject, err = s.tokens.Verify(form.Get("WebIdentityToken"), "sts.amazonaws.com"); err != nil {
			err = refuse("InvalidIdentityToken", "%v of %s", err, form.Get("WebIdentityToken"))
		}
	case "AssumeRole":
		subject, err = s.authenticate(r, body, "sts", now)
		c.Principal = subject
	default:
		err = refuse("InvalidAction", "%s", action)
	}
	if err == nil && len(form.Get("RoleSessionName")) < 2 {
		err = refuse("ValidationError", "RoleSessionName")
	}
	s.mu.Lock()
	fault := s.note(c)
	s.mu.Unlock()
	switch {
	case fault != nil && fault.Hang:
		<-r.Context().Done()
	case fault != nil:
		answerXML(w, action, nil, &failure{fault.Code, form.Get("WebIdentityToken"), fault.Status})
	case err != nil:
		answerXML(w, action, nil, err)
	default:
		session, err := s.assume(role, subject)
		answerXML(w, action, session, err)
	}
}

// session is the credentials that STS gives.
type session struct {
	AccessKeyId, SecretAccessKey, SessionToken string //nolint:revive // AWS' spelling
	Expiration                                 time.Time
}

// assume gives credentials of a role to one who is trusted.
func (s *Server) assume(role, subject string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.roles[role], subject) {
		f := refuse("AccessDenied", "%s is not authorized to perform: sts:AssumeRole on resource: %s", subject, role)
		f.status = http.StatusForbidden
		return nil, f
	}
	s.serial++
	given := &session{
		AccessKeyId: fmt.Sprintf("ASIA%012d", s.serial), SecretAccessKey: fmt.Sprintf("secret-of-session-%d", s.serial),
		SessionToken: fmt.Sprintf("session-%d", s.serial), Expiration: time.Now().Add(s.life).UTC().Truncate(time.Second),
	}
	s.keys[given.AccessKeyId] = key{secret: given.SecretAccessKey, session: given.SessionToken, principal: role, expires: given.Expiration}
	return given, nil
}

func answerXML(w http.ResponseWriter, action string, given *session, err error) {
	w.Header().Set("Content-Type", "text/xml")
	if err != nil {
		f := err.(*failure)
		w.WriteHeader(f.status)
		fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>`, f.code)
		_ = xml.EscapeText(w, []byte(f.message))
		_, _ = fmt.Fprint(w, `</Message></Error><RequestId>request-1</RequestId></ErrorResponse>`)
		return
	}
	fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>%[2]s</AccessKeyId>`+
		`<SecretAccessKey>%[3]s</SecretAccessKey><SessionToken>%[4]s</SessionToken><Expiration>%[5]s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`,
		action, given.AccessKeyId, given.SecretAccessKey, given.SessionToken, given.Expiration.Format(time.RFC3339))
}
