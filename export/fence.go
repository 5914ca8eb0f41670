package export

import (
	"context"
	"fmt"
	"time"

	"github.com/tablexport/tablexport/export/delta"
	"github.com/tablexport/tablexport/export/lease"
)

// fenceID is the txn action that keeps the highest fence that has published: see package lease.
const fenceID = "tablexport/lease"

// Fenced says that another state directory has refreshed the dataset under a newer lease, while this run was silent for too long.
type Fenced struct {
	Dataset     string
	Ours, Newer int64
}

// Error implements error.
func (e *Fenced) Error() string {
	return fmt.Sprintf("export: not published: the dataset %s was taken over by another state directory, which has published since (lease %d, ours is %d); its rows stand", e.Dataset, e.Newer, e.Ours)
}

// fence keeps a run from publishing whose lease is not the newest that has published. The action is there only where it changes something.
func (r *Refresh) fence(base *delta.Snapshot, now time.Time) ([]delta.Action, error) {
	newest := base.Txns[fenceID].Version
	switch ours := r.spec.Fence; {
	case ours == 0 || ours == newest:
		return nil, nil
	case ours < newest:
		return nil, &Fenced{Dataset: r.d.name(), Ours: ours, Newer: newest}
	}
	return []delta.Action{{Txn: &delta.Txn{AppID: fenceID, Version: r.spec.Fence, LastUpdated: now.UnixMilli()}}}, nil
}

// Lease takes the lease on the dataset: see lease.Acquire. Floor is the log's.
func (d *Dataset) Lease(ctx context.Context, o lease.Options) (*lease.Lease, error) {
	o.Floor = func(ctx context.Context) (int64, error) {
		s, err := d.log.Snapshot(ctx)
		if err != nil {
			return 0, err
		}
		return s.Txns[fenceID].Version, nil
	}
	return lease.Acquire(ctx, d.b, d.name(), o)
}

// LeaseHolders are the leases on the dataset that were not given back: see lease.Holders.
func (d *Dataset) LeaseHolders(ctx context.Context) ([]lease.Claim, error) {
	return lease.Holders(ctx, d.b)
}

// BreakLease frees the dataset: see lease.Break.
func (d *Dataset) BreakLease(ctx context.Context, o lease.Options) ([]lease.Claim, error) {
	return lease.Break(ctx, d.b, d.name(), o)
}
