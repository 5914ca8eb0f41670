package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/odata/simulator"
)

// simulateFlags are the options of `simulate`, as typed.
type simulateFlags struct {
	listen    string
	seed      uint64
	rows      []string
	behaviors []string
	faults    []string
	licenses  int
	today     string
	days      int
	dayEvery  time.Duration
}

func simulateCommand(g *globals) *cobra.Command {
	f := &simulateFlags{}
	c := &cobra.Command{
		Use:   "simulate",
		Short: "Serve a simulated Table API on this machine, to try jobs against",
		Long: `Serve a simulated ERP.net instance on a loopback address: discovery, tokens, $metadata, the Table API's filter dialect with its
refusals, its limits, and invented rows. The same seed gives the same rows. Any table of the model can be served with --rows.

--behavior changes how it pages:
  order-by=refuse | order-by=ignore      $orderby is refused with 400, or has no effect
  natural=shuffled                       rows come in another order at every request
  max-rows=N                             answers end after N rows, without a word
  next-link=N                            pages of N rows with @odata.nextLink
  top-is-total                           $top limits the whole chain of pages
  count=inline | count=path              $count is supported
  fractions                              date-time literals of filters may have a fraction of a second
--fault KIND@N makes the Nth page of rows go wrong (KIND@N+ all from there on). Counted are requests for rows of any table, those of
a second try and of a second pass too; not counted are $count and requests for 8 rows or fewer, with which a client finds out what
a server can do:
  500, 429, reset, cut, stall, login, malformed, drop-row, repeat-row, foreign-row

--days N lets N days of business pass before it answers, --day-every lets another pass while it runs: documents with their lines come, change
and vanish, some are entered late, and some get a date in another month, with which their lines move to another period without changing.`,
		Example: `  tablexport simulate --listen 127.0.0.1:8650
  tablexport simulate --rows Crm_Sales_Order_Lines=1000000 --behavior max-rows=5000 --behavior count=path
  tablexport simulate --fault cut@3 --fault 429@5
  tablexport simulate --today 2026-03-01 --days 90 --day-every 1m`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return g.simulate(c.Context(), f) },
	}
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:8650", "loopback `address` to listen on")
	c.Flags().Uint64Var(&f.seed, "seed", 1, "the same seed gives the same rows")
	c.Flags().StringArrayVar(&f.rows, "rows", nil, "serve `TABLE=N` rows; repeat it; replaces the default tables")
	c.Flags().StringArrayVar(&f.behaviors, "behavior", nil, "how the server pages, see above; repeat it")
	c.Flags().StringArrayVar(&f.faults, "fault", nil, "what goes wrong, `KIND@N`; repeat it")
	c.Flags().IntVar(&f.licenses, "licenses", 0, "sessions at the same time; 0 = no limit")
	c.Flags().StringVar(&f.today, "today", "2026-11-01", "the first `day` of business; the rows of the start are dated before it")
	c.Flags().IntVar(&f.days, "days", 0, "days of business that pass before it answers")
	c.Flags().DurationVar(&f.dayEvery, "day-every", 0, "while it runs, a day passes so often; 0 = never")
	return c
}

func (f *simulateFlags) options() (simulator.Options, error) {
	o := simulator.Options{Seed: f.seed, Licenses: f.licenses}
	today, err := time.Parse(time.DateOnly, f.today)
	if err != nil || today.Year() < 1900 {
		return o, usagef("--today takes a day, e.g. 2026-11-01; got %q", f.today)
	}
	if f.days < 0 || f.days > 3660 || f.dayEvery < 0 {
		return o, usagef("--days takes 0 to 3660, --day-every a duration such as 30s")
	}
	o.Last = today.AddDate(0, 0, -1)
	o.First = o.Last.AddDate(-5, 2, 1)
	for _, text := range f.rows {
		table, number, _ := strings.Cut(text, "=")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 {
			return o, usagef("--rows takes TABLE=N, e.g. Crm_Customers=1000; got %q", text)
		}
		if o.Rows == nil {
			o.Rows = map[string]int64{}
		}
		o.Rows[table] = n
	}
	for _, text := range f.behaviors {
		if err := setBehavior(&o.Behavior, text); err != nil {
			return o, err
		}
	}
	for _, text := range f.faults {
		fault, err := parseFault(text)
		if err != nil {
			return o, err
		}
		o.Faults = append(o.Faults, fault)
	}
	return o, nil
}

func setBehavior(b *simulator.Behavior, text string) error {
	name, value, _ := strings.Cut(text, "=")
	number, err := strconv.ParseInt(value, 10, 64)
	isNumber := err == nil && number > 0
	switch {
	case text == "order-by=refuse":
		b.OrderBy = simulator.RefuseOrderBy
	case text == "order-by=ignore":
		b.OrderBy = simulator.IgnoreOrderBy
	case text == "natural=shuffled":
		b.Natural = simulator.Shuffled
	case name == "max-rows" && isNumber:
		b.MaxRows = number
	case name == "next-link" && isNumber:
		b.NextLink.PageSize = number
	case text == "top-is-total":
		b.NextLink.TopIsTotal = true
	case text == "fractions":
		b.Fractions = true
	case text == "count=inline":
		b.Count |= simulator.InlineCount
	case text == "count=path":
		b.Count |= simulator.PathCount
	default:
		return usagef("--behavior %q is not known; see: tablexport simulate --help", text)
	}
	return nil
}

var faultEffects = map[string]func() simulator.Effect{
	"500":         simulator.ServerError,
	"429":         func() simulator.Effect { return simulator.TooMany(time.Second) },
	"reset":       simulator.Reset,
	"cut":         func() simulator.Effect { return simulator.CutRows(5) },
	"stall":       func() simulator.Effect { return simulator.Stall(5, 5*time.Minute) },
	"login":       simulator.LoginPage,
	"malformed":   func() simulator.Effect { return simulator.MalformedJSON(5) },
	"drop-row":    func() simulator.Effect { return simulator.DropRow(5) },
	"repeat-row":  simulator.RepeatRow,
	"foreign-row": func() simulator.Effect { return simulator.ForeignRow(5) },
}

// forRows tells a request for a page of rows from a small one, which asks what the server can do or how many rows there are.
func forRows(r *http.Request) bool {
	const probe = 8
	top, err := strconv.ParseInt(r.URL.Query().Get("$top"), 10, 64)
	return err != nil || top > probe
}

func parseFault(text string) (simulator.Fault, error) {
	kind, at, _ := strings.Cut(text, "@")
	always := strings.HasSuffix(at, "+")
	n, err := strconv.Atoi(strings.TrimSuffix(at, "+"))
	effect, ok := faultEffects[kind]
	if !ok || err != nil || n < 1 {
		return simulator.Fault{}, usagef("--fault takes KIND@N with KIND one of %s; got %q", strings.Join(slices.Sorted(maps.Keys(faultEffects)), ", "), text)
	}
	fault := simulator.Fault{Match: forRows, Nth: n, Effect: effect()}
	if always {
		fault.Times = -1
	}
	return fault, nil
}

func (g *globals) simulate(ctx context.Context, f *simulateFlags) error {
	options, err := f.options()
	if err != nil {
		return err
	}
	options.Logger = g.logger()
	server, err := simulator.New(options)
	if err != nil {
		return usagef("%w", err)
	}
	for range f.days {
		if _, err := server.Evolve(server.UsualDay()); err != nil {
			return fmt.Errorf("simulate: %w", err)
		}
	}
	address, stop, err := server.Start(f.listen)
	if err != nil {
		return usagef("%w", err)
	}
	if err := g.emit(map[string]any{"url": address, "token": simulator.DemoToken, "tables": server.Tables()}, func() {
		g.printf("A simulated instance answers at %s until Ctrl-C. It serves:\n  %s\n\n", address, strings.Join(server.Tables(), "\n  "))
		g.printf("In tablexport.yaml:\n  environment: sandbox\n  instances:\n    sim: {url: %q, token: demo/reader}\n\n", address)
		g.printf("Its token (it opens nothing but this simulator):\n  echo %s | tablexport tokens stage demo/reader --activate\n", simulator.DemoToken)
	}); err != nil {
		return err
	}
	if err := g.live(ctx, server, f.dayEvery); err != nil {
		return err
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := stop(clean); err != nil {
		return fmt.Errorf("simulate: %w", err)
	}
	s := server.Stats()
	g.printf("\n%s requests, %s rows and %s of JSON were served; at most %d request(s) at once\n",
		count(s.Requests), count(s.Rows), size(s.Bytes), s.MaxInFlight)
	return nil
}

// live lets a day pass every so often until ctx ends.
func (g *globals) live(ctx context.Context, server *simulator.Server, every time.Duration) error {
	if every <= 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := server.Evolve(server.UsualDay()); err != nil {
				return fmt.Errorf("simulate: %w", err)
			}
		}
	}
}
