package main

import (
	"context"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd, where it started the program as a unit of Type=notify, how the program is (sd_notify(3)). Elsewhere it does
// nothing.
type notifier struct{ log *slog.Logger }

func (n notifier) tell(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		n.log.Warn("the service manager could not be told", "state", state, "error", err)
	}
}

// watch says that the program is ready when its clock answers, and then twice in each period of the service manager's watchdog that it
// still does, until ctx is over. A clock that does not answer is not vouched for: the service manager kills the program then, which the
// ledger and the datasets survive, and starts it anew.
func (n notifier) watch(ctx context.Context, turns func(context.Context) error) {
	if err := turns(ctx); err != nil {
		return // it ends, and says why itself
	}
	n.tell(sd.SdNotifyReady)
	every, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("the service manager's watchdog cannot be served", "error", err)
	}
	if err != nil || every == 0 {
		return
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, every/2)
		err := turns(asked)
		cancel()
		if err == nil {
			n.tell(sd.SdNotifyWatchdog)
		} else if ctx.Err() == nil {
			n.log.Error("the clock does not answer", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
