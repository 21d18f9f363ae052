package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	dapr "github.com/dapr/go-sdk/client"
)

// printEvents copies an event stream to standard output until its reader goes.
func printEvents(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

// subscribe prints the changes of a secret that the SDK delivers as those of a configuration item.
func subscribe(ctx context.Context, store, name string) error {
	client, err := dapr.NewClient()
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.SubscribeConfigurationItems(ctx, store, []string{name}, func(_ string, items map[string]*dapr.ConfigurationItem) {
		for key, item := range items {
			fmt.Println(key, item.Value)
		}
	}); err != nil {
		return err
	}
	fmt.Println("subscribed")
	<-ctx.Done()
	return ctx.Err()
}
