// Compiled into package runtime by -overlay, for tests/oracle/pacing.py: one gcController and one CPU limiter of the
// toolchain's own, which do what they are told and show all they have.

package runtime

import "unsafe"

// PymemDriver holds what the operations act on.
type PymemDriver struct {
	c gcControllerState
	l gcCPULimiterState
	e limiterEvent
}

// PymemFields names what State returns.
var PymemFields = []string{
	"goal", "least", "trigger", "gc_percent", "memory_limit", "heap_minimum", "runway", "cons_mark", "last_cons_mark0",
	"last_cons_mark1", "last_cons_mark2", "last_cons_mark3", "gc_percent_heap_goal", "sweep_dist_min_trigger", "triggered",
	"last_heap_goal", "heap_live", "heap_scan", "heap_marked", "last_heap_scan", "last_stack_scan", "max_stack_scan",
	"globals_scan", "dedicated", "fractional", "idle_workers", "max_idle_workers", "assist_work_per_byte",
	"assist_bytes_per_work", "limiting", "fill", "capacity", "overflow", "last_update", "assist_pool", "idle_pool",
	"event_kind", "event_duration",
}

func pymemBits(f float64) uint64 { return *(*uint64)(unsafe.Pointer(&f)) }

// State returns the values of PymemFields; floats as their bits.
func (d *PymemDriver) State(kind limiterEventType, duration int64) []uint64 {
	c, l := &d.c, &d.l
	goal, least := c.heapGoalInternal()
	trigger, _ := c.trigger()
	workers := c.idleMarkWorkers.Load()
	limiting := uint64(0)
	if l.limiting() {
		limiting = 1
	}
	return []uint64{
		goal, least, trigger, uint64(c.gcPercent.Load()), uint64(c.memoryLimit.Load()), c.heapMinimum, c.runway.Load(),
		pymemBits(c.consMark), pymemBits(c.lastConsMark[0]), pymemBits(c.lastConsMark[1]), pymemBits(c.lastConsMark[2]),
		pymemBits(c.lastConsMark[3]), c.gcPercentHeapGoal.Load(), c.sweepDistMinTrigger.Load(), c.triggered,
		gcController.lastHeapGoal, c.heapLive.Load(), c.heapScan.Load(), c.heapMarked, c.lastHeapScan,
		c.lastStackScan.Load(), c.maxStackScan.Load(), c.globalsScan.Load(), uint64(c.dedicatedMarkWorkersNeeded.Load()),
		pymemBits(c.fractionalUtilizationGoal), workers & 0xffffffff, workers >> 32, pymemBits(c.assistWorkPerByte.Load()),
		pymemBits(c.assistBytesPerWork.Load()), limiting, l.bucket.fill, l.bucket.capacity, l.overflow,
		uint64(l.lastUpdate.Load()), uint64(l.assistTimePool.Load()), uint64(l.idleTimePool.Load()), uint64(kind),
		uint64(duration),
	}
}

// Do performs one operation and returns the state after it.
func (d *PymemDriver) Do(op string, a []int64) []uint64 {
	c, l := &d.c, &d.l
	kind, duration := limiterEventNone, int64(0)
	switch op {
	case "new":
		*d = PymemDriver{}
		c.test, l.test = true, true
		gcController.lastHeapGoal = 0
		c.init(int32(a[0]), a[1])
		l.resetCapacity(a[2], int32(a[3]))
	case "heap":
		c.heapLive.Add(a[0])
		c.heapScan.Add(a[1])
	case "roots":
		c.addScannableStack(nil, a[0])
		c.addGlobals(a[1])
	case "memory":
		c.heapFree.add(a[0] - int64(c.heapFree.load()))
		c.totalAlloc.Store(uint64(a[1]))
		c.totalFree.Store(uint64(a[2]))
		c.mappedReady.Store(uint64(a[3]))
	case "percent":
		c.setGCPercent(int32(a[0]))
	case "limit":
		c.setMemoryLimit(a[0])
	case "commit":
		c.commit(a[0] != 0)
	case "start":
		c.startCycle(a[0], int(a[1]), gcTrigger{kind: gcTriggerKind(a[2])})
	case "work":
		c.heapScanWork.Add(a[0])
		c.stackScanWork.Add(a[1])
		c.globalsScanWork.Add(a[2])
		c.revise()
	case "revise":
		c.revise()
	case "times":
		c.assistTime.Add(a[0])
		c.idleMarkTime.Add(a[1])
	case "end":
		c.endCycle(a[0], int(a[1]))
	case "reset":
		c.resetLive(uint64(a[0]))
	case "lassist":
		l.addAssistTime(a[0])
	case "lidle":
		l.addIdleTime(a[0])
	case "lupdate":
		l.update(a[0])
	case "lstart":
		l.startGCTransition(a[0] != 0, a[1])
	case "lfinish":
		l.finishGCTransition(a[0])
	case "lreset":
		l.resetCapacity(a[0], int32(a[1]))
	case "estart":
		if d.e.start(limiterEventType(a[0]), a[1]) {
			kind = limiterEventType(a[0])
		}
	case "econsume":
		kind, duration = d.e.consume(a[0])
	case "estop":
		stamp := limiterEventStamp(d.e.stamp.Load())
		kind, duration = stamp.typ(), stamp.duration(a[0])
		d.e.stamp.Store(uint64(limiterEventStampNone))
	default:
		throw("pymem: unknown operation")
	}
	return d.State(kind, duration)
}
