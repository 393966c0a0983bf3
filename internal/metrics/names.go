package metrics

import (
	"maps"
	"strings"
	"sync"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
)

// What fairlead measures. All of an instance carry the labels service, environment, release and instance; an instance that
// is not wanted any more must not be written, or the rules take it for one that is down.
const (
	// Of the edge, as it counts them itself (internal/edge).
	EdgeRequests = "fairlead_edge_requests_total" // and class: 2xx, 5xx, 0xx for no answer
	EdgeFailures = "fairlead_edge_failures_total"
	EdgeSeconds  = "fairlead_edge_request_duration_seconds" // a classic histogram

	// Of instances, as [Instances] writes them.
	InstanceUp          = "fairlead_instance_up" // 1 while it is ready, else 0
	InstanceRestarts    = "fairlead_instance_restarts_total"
	InstanceCPU         = "fairlead_instance_cpu_seconds_total"
	InstanceCPULimit    = "fairlead_instance_cpu_limit_cores"
	InstanceThrottled   = "fairlead_instance_cpu_throttled_seconds_total"
	InstanceMemory      = "fairlead_instance_memory_bytes"
	InstanceMemoryLimit = "fairlead_instance_memory_limit_bytes"
	InstanceFiles       = "fairlead_instance_open_files"
	InstanceThreads     = "fairlead_instance_threads"

	// Of the machine.
	DiskUsed          = "fairlead_disk_used_ratio" // by path; see [Disks]
	DiskFree          = "fairlead_disk_free_bytes"
	CertificateExpiry = "fairlead_certificate_expiry_timestamp_seconds" // by host

	// What a service promises, with the labels service and environment. The built-in rules take them for their thresholds;
	// without them an alert comes at 5 % errors and at 1 s.
	ObjectiveErrors  = "fairlead_objective_error_ratio"
	ObjectiveLatency = "fairlead_objective_latency_seconds" // of the 95th percentile
)

// help is what /api/v1/metadata says of our own names.
var help = map[string]string{
	InstanceUp:          "Whether the instance is ready: 1 or 0.",
	InstanceRestarts:    "How often the instance was started again after it had ended by itself.",
	InstanceCPU:         "Processor time taken, by all its processes where it has a control group.",
	InstanceCPULimit:    "Processors it may use at once; not there without a limit.",
	InstanceThrottled:   "Time it had to wait because of its processor limit.",
	InstanceMemory:      "Memory that counts against its limit: the group's without idle file cache, or else the resident set.",
	InstanceMemoryLimit: "Memory it may use; not there without a limit.",
	InstanceFiles:       "Open file descriptors.",
	InstanceThreads:     "Threads of its first process.",
	DiskUsed:            "Share of the file system that is taken, as df counts.",
	DiskFree:            "Bytes of the file system that an ordinary user can still write.",
	CertificateExpiry:   "When the certificate in use ends, in seconds since 1970.",
	ObjectiveErrors:     "Share of requests that may fail before an alert comes.",
	ObjectiveLatency:    "95th percentile of the time to answer at which an alert comes.",
}

// families is what is known of the metrics that sources write. The scraper keeps its own.
type families struct {
	mu sync.Mutex
	m  map[string]metadata.Metadata
}

// add notes a series' family on its first sample.
func (f *families) add(series string, kind model.MetricType) {
	name := series
	if kind == model.MetricTypeHistogram {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.m[name]; !ok {
		f.put(name, metadata.Metadata{Type: kind, Help: help[name]})
	}
}

func (f *families) set(name string, m metadata.Metadata) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(name, m)
}

func (f *families) put(name string, m metadata.Metadata) {
	if f.m == nil {
		f.m = map[string]metadata.Metadata{}
	}
	f.m[name] = m
}

func (f *families) all() map[string]metadata.Metadata {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.m)
}
