// A Jobpipe worker in Go, standard library only:  JOBPIPE_URL=http://127.0.0.1:8080 go run worker.go
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math/rand"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type object = map[string]any

var handlers = map[string]func(context.Context, any) (any, error){ // the context ends with a cancelled or lost task
	"default": func(_ context.Context, payload any) (any, error) { return payload, nil },
	"fail":    func(context.Context, any) (any, error) { return nil, fmt.Errorf("this one always fails") },
	"nap": func(ctx context.Context, payload any) (any, error) {
		seconds, _ := payload.(object)["seconds"].(json.Number).Float64()
		select {
		case <-time.After(time.Duration(seconds * float64(time.Second))):
			return "slept well", nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	},
}

const release = 0 // of what is deployed: a later one is higher

var url = setting("JOBPIPE_URL", "http://127.0.0.1:8080")
var lease, _ = strconv.Atoi(setting("LEASE", "30")) // seconds until the tasks of a silent worker are given to another

var me, slots = fmt.Sprint("go:", os.Getpid()), make(chan bool, 50) // that many tasks at a time
var client = http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * cap(slots)}}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	for told := false; ctx.Err() == nil; {
		slots <- true // waits until one is free
		<-slots
		var leased struct {
			Tasks    []object
			Features []string
		}
		wish := object{"worker_id": me, "lease": lease, "max": cap(slots) - len(slots), "wait": 2}
		if told { // how many tasks it can run and its release, once the server says that it takes them
			wish["total"], wish["release"] = cap(slots), release
		}
		post(ctx, "/lease", wish, &leased)
		told = strings.Contains(fmt.Sprint(leased.Features), "total")
		for _, task := range leased.Tasks { // also those of a poll that was under way at the signal
			slots <- true
			go func(task object) { run(task); <-slots }(task)
		}
	}
	stop()                               // a second signal ends it at once
	for range make([]bool, cap(slots)) { // all are free once everything is settled
		slots <- true
	}
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func run(task object) {
	ctx, done := context.WithCancel(context.Background())
	defer done()
	var beat *time.Timer
	beat = time.AfterFunc(time.Duration(lease)*time.Second/3, func() {
		var answers []object
		ref := object{"id": task["id"], "lease_id": task["lease_id"]}
		post(ctx, "/extend", object{"worker_id": me, "lease": lease, "leases": []object{ref}}, &answers)
		if len(answers) == 1 && (answers[0]["extended"] != true || answers[0]["cancel_requested"] == true) {
			done()
		} else if ctx.Err() == nil {
			beat.Reset(time.Duration(lease) * time.Second / 3)
		}
	})
	defer beat.Stop()
	settle := object{"id": task["id"], "lease_id": task["lease_id"], "outcome": "failed"}
	if handler, known := handlers[task["handler"].(string)]; !known {
		settle["outcome"], settle["unknown_handler"] = "released", true // another worker may have it
	} else if result, err := handler(ctx, task["payload"]); err != nil {
		settle["error"] = object{"type": fmt.Sprintf("%T", err), "message": err.Error()}
	} else {
		settle["outcome"], settle["result"] = "done", result
	}
	var answers []object // {"accepted": false, "code": "lease_lost"}: somebody else has it now, which is fine
	post(context.Background(), "/settle", []object{settle}, &answers)
}

func post(ctx context.Context, path string, in, out any) { // tries on through outages, until ctx ends
	body, _ := json.Marshal(in)
	for pause := 100; ctx.Err() == nil; pause = (pause + 3000) / 2 {
		request, _ := http.NewRequest("POST", url+path, bytes.NewReader(body))
		request.Header.Set("Authorization", "Bearer "+os.Getenv("JOBPIPE_KEY"))
		response, err := client.Do(request)
		if err == nil {
			defer response.Body.Close()
			decoder := json.NewDecoder(response.Body)
			decoder.UseNumber() // a float64 has no room for large ones
			if response.StatusCode == 200 && decoder.Decode(out) == nil {
				return
			}
			if err = fmt.Errorf("%s", response.Status); response.StatusCode/100 == 4 { // refused for ever
				log.Print(path, ": ", err)
				return
			}
		}
		log.Print(path, ": ", err)
		time.Sleep(time.Duration(pause/2+rand.Intn(pause)) * time.Millisecond)
	}
}
