# Sidekiq on Redis: its command with 10 threads works, a plain client enqueues. The same command line as common.py's;
# as a worker it is loaded by `sidekiq -r`, with the number of tasks in PEER_TASKS.
require "json"
require "sidekiq"

Sidekiq.configure_client { |config| config.redis = { url: ENV.fetch("PEER_URL") } }
Sidekiq.configure_server { |config| config.redis = { url: ENV.fetch("PEER_URL") } }
Sidekiq.logger.level = Logger::ERROR

PAYLOAD = { "user" => 7, "email" => "ada@example.org" }.freeze
PAUSE_S = 0.02

def now_ns = Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond)

class Noop
  include Sidekiq::Worker
  sidekiq_options retry: 3

  @lock = Mutex.new
  @warm = false
  @left = ENV.fetch("PEER_TASKS", "0").to_i
  @latencies = []

  def self.seen(sent)
    now = now_ns
    @lock.synchronize do
      unless @warm
        @warm = true
        $stdout.puts "warm #{now}"
        $stdout.flush
        return
      end
      @latencies << (now - sent) / 1e6 if sent != 0
      @left -= 1
      report(now) if @left.zero?
    end
  end

  def self.report(now)
    rss_mb = File.read("/proc/self/status")[/VmRSS:\s+(\d+)/, 1].to_i / 1000.0
    $stdout.puts JSON.generate({ last: now, latencies: @latencies, rss_mb: rss_mb })
    $stdout.flush
    exit!(0)
  end

  def perform(_payload, sent) = self.class.seen(sent)
end

if $PROGRAM_NAME == __FILE__
  command, n, size = ARGV[0], ARGV[1].to_i, ARGV[2].to_i
  began = now_ns
  case command
  when "produce" then n.times { Noop.perform_async(PAYLOAD, 0) }
  when "paced" then n.times { sleep(PAUSE_S); Noop.perform_async(PAYLOAD, now_ns) }
  when "batch" then (n / size).times { Sidekiq::Client.push_bulk("class" => Noop, "args" => [[PAYLOAD, 0]] * size) }
  end
  puts JSON.generate({ began: began, ended: now_ns })
end
