// Command client is the application in the test's pods. It calls the agent of its node as any Dapr application would.
//
//	client wait                 waits to be killed
//	client http PATH [TOKEN]    prints the status and the body of an HTTP call
//	client sdk STORE SECRET     prints what the unmodified Dapr SDK returns, as JSON
//
// HOST_IP is the node's address. The token is the one in /token/token unless an argument says otherwise; "" is none.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	dapr "github.com/dapr/go-sdk/client"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	switch {
	case len(args) == 1 && args[0] == "wait":
		select {}
	case len(args) == 2 && args[0] == "http":
		token, err := os.ReadFile("/token/token")
		if err != nil {
			return err
		}
		return callHTTP(ctx, args[1], string(token))
	case len(args) == 3 && args[0] == "http":
		return callHTTP(ctx, args[1], args[2])
	case len(args) == 3 && args[0] == "sdk":
		return callSDK(ctx, args[1], args[2])
	}
	return fmt.Errorf("unknown arguments %q", args)
}

func callHTTP(ctx context.Context, path, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(os.Getenv("HOST_IP"), "3500")+path, nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("dapr-api-token", token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Printf("%d %s\n", response.StatusCode, bytes.TrimSpace(body))
	return nil
}

// callSDK configures the SDK as an application's pod would: by its environment.
func callSDK(ctx context.Context, store, name string) error {
	token, err := os.ReadFile("/token/token")
	if err != nil {
		return err
	}
	if err := os.Setenv("DAPR_API_TOKEN", string(token)); err != nil {
		return err
	}
	if err := os.Setenv("DAPR_GRPC_ENDPOINT", net.JoinHostPort(os.Getenv("HOST_IP"), "50001")); err != nil {
		return err
	}
	client, err := dapr.NewClient()
	if err != nil {
		return err
	}
	defer client.Close()
	fields, err := client.GetSecret(ctx, store, name, nil)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(fields)
}
