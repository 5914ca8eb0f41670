package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	_ "time/tzdata" // jobs name zones, and images without an operating system have none

	"github.com/spf13/cobra"

	"github.com/tablexport/tablexport/configs"
	"github.com/tablexport/tablexport/jobs"
)

func main() {
	noCore()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first Ctrl-C ends in good order, the second ends at once
	code := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr})
	stop()
	os.Exit(code)
}

// stdio is where a command reads and writes; tests give their own.
type stdio struct {
	in  io.Reader
	out io.Writer
	err io.Writer
}

// Exit codes, as every command's help states them.
const (
	exitOK          = 0
	exitOther       = 1
	exitUsage       = 2
	exitConfig      = 3
	exitCredential  = 4
	exitScope       = 5
	exitUnavailable = 6
	exitConflict    = 7
	exitData        = 8
	exitInterrupted = 130
)

const exitCodesHelp = `Exit codes: 0 ok · 1 other error · 2 usage · 3 configuration · 4 credential · 5 row outside the scope ·
            6 service unavailable · 7 conflict with another writer · 8 data refused or damaged · 130 interrupted`

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// atLeastNone refuses a flag's negative number of things to show.
func atLeastNone(flag string, n int) error {
	if n < 0 {
		return usagef("-n (--%s) takes a whole number from 0 on; got %d", flag, n)
	}
	return nil
}

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// run is the whole program but for the process around it.
func run(ctx context.Context, args []string, io stdio) int {
	out := &output{w: io.out}
	g := &globals{stdio: stdio{io.in, out, io.err}}
	root := newRoot(g)
	root.SetArgs(args)
	err := noTokenIn(args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	if err == nil {
		err = out.failure()
	}
	if err == nil {
		return exitOK
	}
	// A command line that could not be read to its end still says whether a machine is listening.
	g.json = g.json || slices.Contains(args, "--json")
	return g.report(err)
}

// satText is what a service access token of ERP.net looks like.
var satText = regexp.MustCompile(`enrt_[A-Za-z0-9_-]{16,}`)

// noTokenIn refuses a command line with a token in it, and does not repeat it: errors name what was given.
func noTokenIn(args []string) error {
	for i, arg := range args {
		if satText.MatchString(arg) {
			return usagef("argument %d looks like a token, and a command line is no place for one: every account of this machine can read it, and the shell keeps it; "+
				"replace that token, and pipe the new one in: tablexport tokens stage NAME < token.txt", i+1)
		}
	}
	return nil
}

// output is standard output, and remembers its first error: a result that did not reach its reader is no success.
type output struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.w.Write(p)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

func (o *output) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		return nil
	}
	return &outputError{o.err}
}

// outputError does not unwrap: what kept standard output from taking a result is no service that could be asked again.
type outputError struct{ cause error }

func (e *outputError) Error() string {
	return "the result could not be written to standard output: " + e.cause.Error()
}

// several are the errors of several jobs or checks. The first decides what the command's end means.
type several struct {
	text string // instead of the errors' own texts, where those were printed already
	errs []error
}

func (s *several) Error() string {
	if s.text != "" {
		return s.text
	}
	return errors.Join(s.errs...).Error()
}

func (s *several) Unwrap() []error { return s.errs }

// first is the error that decides.
func first(err error) error {
	var s *several
	if errors.As(err, &s) {
		return first(s.errs[0])
	}
	return err
}

// classUsage is the class of a command line that makes no sense; the other classes are those of jobs.Classify.
const classUsage jobs.Class = "usage"

// meaning finds an error's class and exit code. What an error means stands in one table, jobs.Classify; only what this
// package adds to it is known here.
func meaning(err error) (jobs.Class, int) {
	err = first(err)
	var usage *usageError
	var problems configs.Problems
	var problem *configs.Problem
	var damaged *damagedError
	var broken *brokenAuditError
	var unproven *unprovenError
	var policy *policyError
	var waiting *waitingError
	var unwell *unwellError
	var unusable *configError
	switch {
	case errors.As(err, &usage):
		return classUsage, exitUsage
	case errors.As(err, &unwell):
		return jobs.Transient, exitUnavailable
	case errors.As(err, &unproven), errors.As(err, &policy), errors.As(err, &waiting):
		return jobs.Credential, exitCredential
	case errors.As(err, &damaged), errors.As(err, &broken):
		return jobs.Data, exitData
	case errors.As(err, &problems), errors.As(err, &problem), errors.As(err, &unusable):
		return jobs.Config, exitConfig
	}
	class := jobs.Classify(err)
	switch class {
	case jobs.Transient, jobs.Later:
		return class, exitUnavailable
	case jobs.Credential:
		return class, exitCredential
	case jobs.Scope:
		return class, exitScope
	case jobs.Data:
		return class, exitData
	case jobs.Config:
		return class, exitConfig
	case jobs.Conflict:
		return class, exitConflict
	case jobs.Canceled:
		return class, exitInterrupted
	}
	return class, exitOther
}

// globals are the flags that every command has, and where it reads and writes.
type globals struct {
	stdio
	config  string
	state   string
	json    bool
	verbose bool
	quiet   bool
	warned  sync.Once // about the state directory
	counts  counts    // of spans and lineage events
}

// report prints an error for a person, or as one JSON object with --json, and returns the exit code.
func (g *globals) report(err error) int {
	class, code := meaning(err)
	hint := hintFor(err)
	if g.json {
		line, merr := json.Marshal(map[string]any{"error": err.Error(), "hint": hint, "class": class, "exit": code})
		if merr == nil {
			fmt.Fprintln(g.err, string(line))
			return code
		}
	}
	const indent = "\n            "
	fmt.Fprintf(g.err, "tablexport: %s\n", strings.ReplaceAll(err.Error(), "\n", indent))
	if hint != "" {
		fmt.Fprintf(g.err, "            → %s\n", hint)
	}
	return code
}

// logger writes to stderr: warnings and errors only, everything with --verbose.
func (g *globals) logger() *slog.Logger {
	level := slog.LevelError + 4 // the command reports its own error
	if g.verbose {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	if g.json {
		return slog.New(slog.NewJSONHandler(g.err, options))
	}
	return slog.New(slog.NewTextHandler(g.err, options))
}

func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "tablexport",
		Short: "Keep copies of ERP tables fresh for BI: scoped, complete, audited",
		Long: `tablexport copies tables of an ERP.net instance to Delta Lake tables (Parquet) on a directory or on S3.

It borrows a token from a vault and audits the loan, reads the table through the Table API, proves that no row was
lost and that every row is inside the job's scope, and publishes the whole refresh at once or not at all.`,
		Example: `  tablexport demo                        # everything, on a built-in simulator, in 20 seconds
  tablexport init                        # write an example tablexport.yaml
  tablexport check --online              # is everything right, is everyone reachable?
  tablexport run order-lines             # refresh one dataset`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&g.config, "config", "c", "./tablexport.yaml", "the configuration `file`")
	flags.StringVar(&g.state, "state", "", "`directory` for ledger and audit log (default .tablexport beside the configuration)")
	flags.BoolVar(&g.json, "json", false, "machine-readable output: one JSON object per line")
	flags.BoolVarP(&g.verbose, "verbose", "v", false, "log what happens to stderr")
	flags.BoolVarP(&g.quiet, "quiet", "q", false, "no progress")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w; see: %s --help", err, c.CommandPath())
	})
	root.AddCommand(
		initCommand(g), checkCommand(g), tablesCommand(g), planCommand(g), runCommand(g), backfillCommand(g), runsCommand(g), scheduleCommand(g), serveCommand(g), healthCommand(g), alertsCommand(g),
		datasetsCommand(g), setsCommand(g), tokensCommand(g), policyCommand(g), auditCommand(g), configCommand(g), simulateCommand(g), demoCommand(g), versionCommand(g),
	)
	root.SetIn(g.in)
	root.SetOut(g.out)
	root.SetErr(g.err)
	root.InitDefaultCompletionCmd("completion") // here, so that it gets what all commands get; it keeps the output that it finds
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			describeCompletion(c)
		}
	}
	g.finish(root)
	return root
}

// describeCompletion gives the library's commands the examples that all commands have.
func describeCompletion(c *cobra.Command) {
	c.Short = "Print a script that completes commands, flags and jobs in a shell"
	c.Long = c.Short + "."
	c.Example = "  tablexport completion bash > /etc/bash_completion.d/tablexport"
	for _, shell := range c.Commands() {
		shell.Example = "  tablexport completion " + shell.Name()
		shell.Long = strings.TrimRight(shell.Long, "\n")
	}
}

// finish gives every command the parts that all have: exit codes in its help, and words for arguments that do not fit.
func (g *globals) finish(c *cobra.Command) {
	if c.Long == "" {
		c.Long = c.Short + "."
	}
	c.Long = strings.TrimRight(c.Long, "\n") + "\n\n" + exitCodesHelp
	if c.HasSubCommands() {
		g.finishGroup(c)
	} else if fits := c.Args; fits != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			if fits(c, a) == nil {
				return nil
			}
			given := "no argument is given"
			if len(a) > 0 {
				given = fmt.Sprintf("%d argument(s) are given", len(a))
			}
			return usagef("%s; write: %s; see: %s --help", given, c.UseLine(), c.CommandPath())
		}
	}
	for _, sub := range c.Commands() {
		g.finish(sub)
	}
}

// finishGroup makes a mistyped command of a group an error that says what may have been meant, and a group alone
// print its help, which is for people.
func (g *globals) finishGroup(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	c.Args = func(c *cobra.Command, a []string) error {
		if len(a) == 0 {
			return nil
		}
		hint := ""
		if near := c.SuggestionsFor(a[0]); len(near) > 0 {
			hint = ", did you mean " + strings.Join(near, " or ") + "?"
		}
		return usagef("%s has no command %q%s; see: %s --help", c.CommandPath(), a[0], hint, c.CommandPath())
	}
	c.RunE = func(c *cobra.Command, _ []string) error {
		if g.json {
			return usagef("%s needs a command; see: %s --help", c.CommandPath(), c.CommandPath())
		}
		return c.Help()
	}
}
