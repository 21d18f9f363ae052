package api_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/providertest"
	"github.com/keywell/keywell/pkg/scope"
)

const (
	zeroTrace = "Traceparent: 00-00000000000000000000000000000000-0000000000000000-00\r\n"
	aTrace    = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
)

// errorAnswer is an answer with a JSON error.
func errorAnswer(status, body string, header ...string) string {
	return answer(status, body, append([]string{"Content-Type: application/json\r\n"}, header...)...)
}

// answer is the bytes of an answer; the headers are those besides Content-Length, in any order.
func answer(status, body string, header ...string) string {
	header = append(header, "Connection: close\r\n")
	if body != "" {
		header = append(header, "Content-Length: "+strconv.Itoa(len(body))+"\r\n")
	}
	return sortHeader("HTTP/1.1 " + status + "\r\n" + strings.Join(header, "") + "\r\n" + body)
}

// details is the start of the details member of an error: the list is left open.
func details(store, reason, secretName string) string {
	if secretName != "" {
		secretName = `"secret":"` + secretName + `",`
	}
	return `"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"` + reason +
		`","domain":"keywell.dev","metadata":{` + secretName + `"store":"` + store + `"}}`
}

// sortHeader sorts the header lines of an answer, the order of which means nothing.
func sortHeader(answer string) string {
	head, body, _ := strings.Cut(answer, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

// TestHTTPBytes compares whole answers.
func TestHTTPBytes(t *testing.T) {
	m := providertest.NewMemory()
	m.Put("db", map[string]string{"user": "app", "password": "a<b>&c"})
	m.Put("plain", map[string]string{"plain": "é\u2028\"\\\n"})
	m.Put("empty", map[string]string{})
	m.PutPayload("", "none", providers.Payload{})
	m.Put("binary", map[string]string{"ok": "text", "jks": "\xff\xfe"})
	m.Put("a/b/c", map[string]string{"a/b/c": "deep"})
	m.Put("hidden", map[string]string{"hidden": "x"})
	m.Put("bulk", map[string]string{"bulk": "named bulk"})
	m.FailName("refused", providers.Errorf(providers.Denied, "403 from the store"))
	m.FailName("odd", providers.Errorf(providers.Invalid, "no such selector"))
	m.FailName("busy", &providers.Error{Kind: providers.Throttled, RetryAfter: 1500 * time.Millisecond, Err: errors.New("slow down")})

	f := newFixture(t).withStore("vault", m)
	f.with(api.Store{Name: "closed", Reason: "no token"}, nil)
	env := providertest.NewMemory()
	f.with(api.Store{Name: "env", Open: true, MissingIsEmpty: true}, env.Provider())
	down := providertest.NewMemory()
	down.Fail(providers.Errorf(providers.Unavailable, "connection refused"))
	f.withStore("down", down)
	f.rules.Scopes = []scope.StoreScope{{Store: "vault", Denied: []string{"hidden"}}}
	f.rules.Stores = append(f.rules.Stores, scope.Store{Name: "others", AppIDs: []string{"somebody"}})
	f.stores.list = append(f.stores.list, api.Store{Key: "others", Name: "others", Open: true})
	f.setPolicy()
	srv := f.run()

	const etag = "Etag: \"*\"\r\n"
	ok := func(body, version string) string {
		return answer("200 OK", body, "Content-Type: application/json\r\n", zeroTrace, etag, "Keywell-Version: "+version+"\r\n")
	}
	getError := func(store, name, text, reason string) string {
		return errorAnswer("500 Internal Server Error", `{"errorCode":"ERR_SECRET_GET","message":"failed getting secret with key `+name+
			` from secret store `+store+`: `+text+`",`+details(store, reason, name)+`]}`, zeroTrace)
	}
	notFoundStore := func(name, reason string) string {
		return errorAnswer("401 Unauthorized", `{"errorCode":"ERR_SECRET_STORE_NOT_FOUND","message":"failed finding secret store with key `+name+
			`",`+details(name, reason, "")+`]}`, zeroTrace)
	}
	fallback := errorAnswer("404 Not Found", `{"errorCode":"ERR_DIRECT_INVOKE","message":"failed getting app id either from the URL path or the header dapr-app-id"}`, zeroTrace)

	for _, tc := range []struct {
		name, method, path, header, body string
		want                             string
	}{
		{name: "several fields", path: "/v1.0/secrets/vault/db", want: ok("{\"password\":\"a\\u003cb\\u003e\\u0026c\",\"user\":\"app\"}\n", "1")},
		{name: "escapes", path: "/v1.0/secrets/vault/plain", want: ok("{\"plain\":\"é\\u2028\\\"\\\\\\n\"}\n", "1")},
		{name: "empty set", path: "/v1.0/secrets/vault/empty", want: ok("{}\n", "1")},
		{name: "no fields at all", path: "/v1.0/secrets/vault/none", want: answer("204 No Content", "", zeroTrace)},
		{name: "trace echoed", path: "/v1.0/secrets/vault/empty", header: "traceparent: " + aTrace + "\r\nbaggage: a=b,c=%20d\r\n",
			want: strings.Replace(ok("{}\n", "1"), zeroTrace, "Baggage: a=b,c=%20d\r\nTraceparent: "+aTrace+"\r\n", 1)},
		{name: "invalid trace", path: "/v1.0/secrets/vault/empty", header: "traceparent: 00-zz\r\n", want: ok("{}\n", "1")},
		{name: "invalid baggage", path: "/v1.0/secrets/vault/empty", header: "baggage: a\r\n",
			want: answer("400 Bad Request", "invalid baggage header: invalid baggage list-member: \"a\"\n", "Content-Type: text/plain; charset=utf-8\r\n", "X-Content-Type-Options: nosniff\r\n")},

		{name: "missing", path: "/v1.0/secrets/vault/nope", want: getError("vault", "nope", "secret nope not found", "SECRET_NOT_FOUND")},
		{name: "store denies", path: "/v1.0/secrets/vault/refused", want: getError("vault", "refused", "403 from the store", "STORE_DENIED")},
		{name: "invalid", path: "/v1.0/secrets/vault/odd", want: getError("vault", "odd", "no such selector", "SECRET_INVALID")},
		{name: "binary", path: "/v1.0/secrets/vault/binary", want: getError("vault", "binary",
			"the value is not UTF-8 text, which is all this API can carry; mount the secret as a volume instead", "SECRET_BINARY")},
		{name: "store down", path: "/v1.0/secrets/down/x", want: getError("down", "x", "connection refused", "STORE_UNAVAILABLE")},
		{name: "policy denies", path: "/v1.0/secrets/vault/hidden", want: errorAnswer("403 Forbidden",
			`{"errorCode":"ERR_PERMISSION_DENIED","message":"access denied by policy to get \"hidden\" from \"vault\"",`+details("vault", "SECRET_DENIED", "hidden")+`]}`, zeroTrace)},
		{name: "unknown store", path: "/v1.0/secrets/nostore/x", want: notFoundStore("nostore", "STORE_NOT_FOUND")},
		{name: "closed store", path: "/v1.0/secrets/closed/x", want: notFoundStore("closed", "STORE_CLOSED")},
		{name: "another app's store", path: "/v1.0/secrets/others/x", want: notFoundStore("others", "STORE_NOT_FOUND")},
		{name: "bulk of unknown store", path: "/v1.0/secrets/nostore/bulk", want: notFoundStore("nostore", "STORE_NOT_FOUND")},
		{name: "missing is empty", path: "/v1.0/secrets/env/PATH_X", want: answer("200 OK", "{\"PATH_X\":\"\"}\n", "Content-Type: application/json\r\n", zeroTrace)},

		{name: "slashes", path: "/v1.0/secrets/vault/a/b/c", want: ok("{\"a/b/c\":\"deep\"}\n", "1")},
		{name: "escaped slashes", path: "/v1.0/secrets/vault/a%2Fb%2fc", want: ok("{\"a/b/c\":\"deep\"}\n", "1")},
		{name: "doubled and trailing slashes", path: "//v1.0/secrets/./vault//db/", want: ok("{\"password\":\"a\\u003cb\\u003e\\u0026c\",\"user\":\"app\"}\n", "1")},
		{name: "a secret named bulk", path: "/v1.0/secrets/vault/%62ulk", want: ok("{\"bulk\":\"named bulk\"}\n", "1")},

		{name: "valid body has no effect", path: "/v1.0/secrets/vault/empty", body: `{"key":"db","other":1}`, want: ok("{}\n", "1")},
		{name: "no key", path: "/v1.0/secrets/vault", want: fallback},
		{name: "no key but a slash", path: "/v1.0/secrets/vault/", want: fallback},
		{name: "post", method: "POST", path: "/v1.0/secrets/vault/db", want: fallback},
		{name: "options", method: "OPTIONS", path: "/v1.0/secrets/vault/db", want: fallback},
		{name: "other version", path: "/v1.0-alpha1/secrets/vault/db", want: fallback},
		{name: "other api", path: "/v1.0/state/x", want: fallback},
		{name: "root", path: "/", want: fallback},
		{name: "metadata key with a slash", method: "PUT", path: "/v1.0/metadata/a/b", want: fallback},
		{name: "bad escape is net/http's", path: "/v1.0/secrets/vault/%zz",
			want: sortHeader("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request")},

		{name: "ready", path: "/v1.0/healthz", want: answer("204 No Content", "")},
		{name: "ready to others", path: "/v1.0/healthz/outbound", header: "traceparent: " + aTrace + "\r\n", want: answer("204 No Content", "")},
		{name: "own app id", path: "/v1.0/healthz?appid=checkout", want: answer("204 No Content", "")},
		{name: "other app id", path: "/v1.0/healthz?appid=x", want: errorAnswer("500 Internal Server Error", `{"errorCode":"ERR_HEALTH_APPID_NOT_MATCH","message":"dapr app-id does not match"}`)},

		{name: "set metadata", method: "PUT", path: "/v1.0/metadata/my%2Fkey", body: "va lue", want: answer("204 No Content", "", zeroTrace)},
		{name: "metadata", path: "/v1.0/metadata", want: answer("200 OK", `{"id":"checkout","runtimeVersion":"1.18.1",`+
			`"components":[{"name":"vault","type":"secretstores.memory","version":"v1"},{"name":"env"},{"name":"down","type":"secretstores.memory","version":"v1"}],`+
			`"extended":{"daprRuntimeVersion":"1.18.1","keywell.closedStore.closed":"no token","my/key":"va lue"}}`+"\n", "Content-Type: application/json\r\n", zeroTrace)},

		// Last, because the store is left alone for a while afterwards.
		{name: "throttled", path: "/v1.0/secrets/vault/busy", want: errorAnswer("500 Internal Server Error",
			`{"errorCode":"ERR_SECRET_GET","message":"failed getting secret with key busy from secret store vault: slow down",`+
				details("vault", "STORE_THROTTLED", "busy")+`,{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"1.500s"}]}`, zeroTrace, "Retry-After: 2\r\n")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			method := tc.method
			if method == "" {
				method = "GET"
			}
			header := tc.header
			if tc.body != "" {
				header += "Content-Length: " + strconv.Itoa(len(tc.body)) + "\r\n"
			}
			got := srv.raw(t, method+" "+tc.path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+header+"\r\n"+tc.body)
			if diff := cmp.Diff(sortHeader(tc.want), sortHeader(got)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
	denied := []string{"api checkout vault hidden", "api checkout nostore x", "api checkout closed x", "api checkout others x", "api checkout nostore "}
	if diff := cmp.Diff(denied, f.audit.denied); diff != "" {
		t.Errorf("audited denials (-want +got):\n%s", diff)
	}
}
