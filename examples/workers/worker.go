// A Jobpipe worker in Go, standard library only:  go run worker.go
// Each of WORKERS goroutines leases one task at a time. SIGTERM or Ctrl+C lets what runs finish; a second one ends it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math"
	"math/rand"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

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
		case <-ctx.Done():
		}
		return "slept well", ctx.Err()
	},
}

type object = map[string]any
type task struct {
	ID, Handler string
	LeaseID     string `json:"lease_id"`
	Payload     json.RawMessage
}
type answer struct { // to a settle or an extend
	Accepted, Extended bool
	Cancel             bool `json:"cancel_requested"`
	Code               string
}

var server, queues = env("JOBPIPE_URL", "http://127.0.0.1:8080"), strings.Split(env("QUEUES", "*"), ",")
var workers, _ = strconv.Atoi(env("WORKERS", "10"))
var lease, _ = strconv.Atoi(env("LEASE", "30"))
var host, _ = os.Hostname()
var me = fmt.Sprintf("%s:%d", host, os.Getpid())
var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * workers}}

func main() {
	rand.Seed(time.Now().UnixNano()) // Go before 1.20 does not by itself
	stopping, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { <-stopping.Done(); stop() }() // nobody catches the second signal
	var running sync.WaitGroup
	for n := 0; n < workers; n++ {
		running.Add(1)
		go func() { defer running.Done(); work(stopping) }()
	}
	running.Wait()
}

func work(stopping context.Context) {
	for failures := 0; stopping.Err() == nil; {
		var leased struct{ Tasks []task }
		began := time.Now()
		err := post("/lease", object{"worker_id": me, "queues": queues, "lease": lease, "wait": 2}, &leased)
		for _, task := range leased.Tasks { // also what a poll brings that was under way at the stop
			ctx, cancel := context.WithCancel(context.Background())
			go beat(ctx, cancel, task)
			settle(task, run(ctx, task))
			cancel()
		}
		if err == nil && (len(leased.Tasks) > 0 || time.Since(began) > time.Second) {
			failures = 0
		} else { // there is no server, or one that is stopping
			failures++
			pause(failures)
		}
	}
}

func run(ctx context.Context, task task) (settle object) {
	failed := func(kind string, why any) object {
		return object{"outcome": "failed", "error": object{"type": kind, "message": fmt.Sprint(why)}}
	}
	defer func() {
		if why := recover(); why != nil {
			settle = failed("panic", why)
		}
	}()
	handler, known := handlers[task.Handler]
	if !known {
		return failed("unknown_handler", task.Handler)
	}
	result, err := handler(ctx, task.Payload)
	text, unfit := json.Marshal(result)
	if err != nil {
		return failed(fmt.Sprintf("%T", err), err)
	} else if unfit != nil || len(text) > 1<<20 {
		return failed("bad_result", fmt.Sprint(len(text), " bytes of JSON ", unfit))
	}
	return object{"outcome": "done", "result": json.RawMessage(text)}
}

func settle(task task, outcome object) {
	outcome["id"], outcome["lease_id"] = task.ID, task.LeaseID
	var answers []answer
	for failures := 1; post("/settle", []object{outcome}, &answers) != nil; failures++ {
		pause(failures) // through an outage: the lease holds for a while after it
	}
	for _, answer := range answers {
		if !answer.Accepted { // lease_lost: somebody else has it now
			log.Printf("task %s: its outcome was refused: %s", task.ID, answer.Code)
		}
	}
}

func beat(ctx context.Context, cancel func(), task task) {
	every := time.NewTicker(time.Duration(lease) * time.Second / 3)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		var answers []answer
		leases := []object{{"id": task.ID, "lease_id": task.LeaseID}}
		post("/extend", object{"worker_id": me, "lease": lease, "leases": leases}, &answers)
		for _, answer := range answers {
			if !answer.Extended || answer.Cancel {
				cancel()
			}
		}
	}
}

// post gives an error where trying again may help; a refusal is only logged, and leaves the answer as it is.
func post(path string, value, answer any) error {
	body, _ := json.Marshal(value)
	request, err := http.NewRequest("POST", server+path, bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+env("JOBPIPE_KEY", "none"))
	response, err := client.Do(request)
	if err == nil {
		defer response.Body.Close()
		if response.StatusCode == 200 {
			err = json.NewDecoder(response.Body).Decode(answer)
		} else if err = fmt.Errorf("%s %s", path, response.Status); response.StatusCode < 500 {
			log.Print(err)
			return nil
		}
	}
	return err
}

func pause(failures int) { // grows, leaves half to chance, and is shorter than a lease
	most := math.Min(5000, math.Min(200*float64(lease), 100*math.Pow(2, float64(failures))))
	time.Sleep(time.Duration(most*(1+rand.Float64())/2) * time.Millisecond)
}

func env(name, otherwise string) string {
	if value, given := os.LookupEnv(name); given {
		return value
	}
	return otherwise
}
