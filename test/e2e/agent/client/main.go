// Command client is the application in the test's pods. It calls the agent of its node as any Dapr application would.
//
//	client wait                        waits to be killed
//	client http PATH [TOKEN]           prints the status and the body of an HTTP call to the node's address
//	client sdk STORE SECRET            prints what the unmodified Dapr SDK returns from there, as JSON
//	client get URL                     prints the status and the body of an HTTP call
//	client localhost-sdk STORE SECRET  prints what the SDK returns that nothing has configured
//	client socket PATH                 prints the status and the body of an HTTP call by /secrets/http.sock
//	client socket-sdk STORE SECRET     prints what the SDK returns by /secrets/grpc.sock
//	client provider PATH WORD          is a provider of the Secrets Store CSI driver at a Unix socket, whose file ends with the word
//	client plugin PATH WORD            is a pluggable secret store at a Unix socket, whose secret ends with the word
//	client daprd FOLDER STORE SECRET NAMESPACE
//	                                   prints what a daprd gets by the sockets in the folder, as JSON; "" is no namespace
//	client steal PATH VICTIM ADDRESS TOKEN TARGET...
//	                                   prints what each target says to one who is not the victim; see steal
//	client events URL                  prints an event stream as it comes
//	client subscribe STORE SECRET      prints "subscribed", and what the SDK is told then that nothing has configured
//	client await PATH                  calls localhost:3500 until it answers 200, and prints how long it was refused
//
// HOST_IP is the node's address. The token is the one in /token/token unless an argument says otherwise; "" is none.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
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
		<-killed().Done()
		return nil
	case len(args) == 3 && args[0] == "plugin":
		return servePlugin(killed(), args[1], args[2])
	case len(args) == 3 && args[0] == "provider":
		return serveProvider(killed(), args[1], args[2])
	case len(args) == 2 && args[0] == "http":
		token, err := os.ReadFile("/token/token")
		if err != nil {
			return err
		}
		return callHTTP(ctx, http.DefaultClient, onNode(args[1]), string(token))
	case len(args) == 3 && args[0] == "http":
		return callHTTP(ctx, http.DefaultClient, onNode(args[1]), args[2])
	case len(args) == 3 && args[0] == "sdk":
		return callNodeSDK(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "get":
		return callHTTP(ctx, http.DefaultClient, args[1], "")
	case len(args) == 3 && args[0] == "localhost-sdk":
		return callSDK(ctx, args[1], args[2], func() (dapr.Client, error) { return dapr.NewClient() })
	case len(args) == 2 && args[0] == "socket":
		return callHTTP(ctx, socketClient, "http://localhost"+args[1], "")
	case len(args) == 3 && args[0] == "socket-sdk":
		return callSDK(ctx, args[1], args[2], func() (dapr.Client, error) {
			return dapr.NewClientWithAddress("unix:///secrets/grpc.sock")
		})
	case len(args) == 5 && args[0] == "daprd":
		return readAsDaprd(ctx, args[1], args[2], args[3], args[4])
	case len(args) == 2 && args[0] == "events":
		return printEvents(ctx, args[1])
	case len(args) == 3 && args[0] == "subscribe":
		return subscribe(ctx, args[1], args[2])
	case len(args) > 5 && args[0] == "steal":
		named, err := namedSockets()
		if err != nil {
			return err
		}
		return steal(args[1], args[2], args[3], args[4], append(args[5:], named...))
	case len(args) == 2 && args[0] == "await":
		return await(ctx, "http://localhost:3500"+args[1])
	}
	return fmt.Errorf("unknown arguments %q", args)
}

// killed returns a context that ends when the process is asked to.
func killed() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	return ctx
}

func onNode(path string) string {
	return "http://" + net.JoinHostPort(os.Getenv("HOST_IP"), "3500") + path
}

var socketClient = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", "/secrets/http.sock")
}}}

// await calls a URL as fast as it is refused, and prints how often and for how long that was.
func await(ctx context.Context, url string) error {
	began := time.Now()
	for refused := 0; ; refused++ {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			time.Sleep(100 * time.Microsecond)
			continue
		case err != nil:
			return err
		case response.StatusCode != http.StatusOK:
			return fmt.Errorf("the answer is %s", response.Status)
		}
		fmt.Printf("refused %d times in %d us\n", refused, time.Since(began).Microseconds())
		return response.Body.Close()
	}
}

func callHTTP(ctx context.Context, client *http.Client, url, token string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		request.Header.Set("dapr-api-token", token)
	}
	response, err := client.Do(request)
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

// callNodeSDK configures the SDK as an application's pod would: by its environment.
func callNodeSDK(ctx context.Context, store, name string) error {
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
	return callSDK(ctx, store, name, func() (dapr.Client, error) { return dapr.NewClient() })
}

func callSDK(ctx context.Context, store, name string, connect func() (dapr.Client, error)) error {
	client, err := connect()
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
