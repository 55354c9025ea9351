// A Jobpipe worker in Go, standard library only:  go run worker.go
// Each of WORKERS goroutines leases one task at a time. SIGTERM or Ctrl+C lets what runs finish; a second one ends it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

type object = map[string]any

type task struct {
	ID, Handler string
	Payload     json.RawMessage
	LeaseID     string `json:"lease_id"`
}

// The context ends when the task is cancelled or lost.
var handlers = map[string]func(context.Context, json.RawMessage) (any, error){
	"default": func(_ context.Context, payload json.RawMessage) (any, error) { return payload, nil },
	"fail":    func(context.Context, json.RawMessage) (any, error) { return nil, fmt.Errorf("this one always fails") },
	"nap": func(ctx context.Context, payload json.RawMessage) (any, error) {
		var wish struct{ Seconds float64 }
		if err := json.Unmarshal(payload, &wish); err != nil {
			return nil, err
		}
		select {
		case <-time.After(time.Duration(wish.Seconds * float64(time.Second))):
			return "slept well", nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	},
}

var url, lease, me = env("JOBPIPE_URL", "http://127.0.0.1:8080"), number("LEASE", "30"), fmt.Sprint("go:", os.Getpid())
var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}

func main() {
	stopping, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { <-stopping.Done(); stop() }() // the second signal finds nobody who catches it
	var workers sync.WaitGroup
	for n := number("WORKERS", "10"); n > 0; n-- {
		workers.Add(1)
		go func() { defer workers.Done(); work(stopping) }()
	}
	workers.Wait()
}

// work leases and runs tasks, one after another, until it is to stop; a poll that is under way may still bring one.
func work(stopping context.Context) {
	for failures := 0; stopping.Err() == nil; {
		var leased struct{ Tasks []task }
		began := time.Now()
		err := post("/lease", object{"worker_id": me, "lease": lease, "wait": 2}, &leased)
		for _, task := range leased.Tasks {
			settle(task, run(task))
		}
		if failures++; err == nil && (len(leased.Tasks) > 0 || time.Since(began) > time.Second) {
			failures = 0
		} else { // no server, or one that is stopping
			pause(failures)
		}
	}
}

// run gives the outcome of a task, and keeps its lease meanwhile.
func run(task task) (settle object) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go beat(ctx, cancel, task)
	failed := func(kind string, err any) object {
		return object{"outcome": "failed", "error": object{"type": kind, "message": fmt.Sprint(err)}}
	}
	defer func() {
		if err := recover(); err != nil {
			settle = failed("panic", err)
		}
	}()
	handler, known := handlers[task.Handler]
	if !known {
		return failed("unknown_handler", task.Handler)
	}
	if result, err := handler(ctx, task.Payload); err != nil {
		return failed(fmt.Sprintf("%T", err), err)
	} else {
		return object{"outcome": "done", "result": result}
	}
}
