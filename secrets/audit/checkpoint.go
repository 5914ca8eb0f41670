package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/tablexport/tablexport/secrets/internal/filelock"
)

// The facts about checkpoints that callers can tell apart.
var (
	// ErrForked means that checkpoints of this log know of entries that the log does not have: its tail was cut, it was
	// restored from a backup, or a copy of it is written elsewhere. Run Verify against the checkpoints.
	ErrForked = errors.New("audit: the log is not the one that was signed")
	// ErrKey means that a key file cannot be used.
	ErrKey = errors.New("audit: not a usable key")
)

// payloadType names the content of a checkpoint's envelope.
const payloadType = "application/vnd.tablexport.audit-checkpoint+json"

// checkpointFormat is the version of Checkpoint. A later one is refused, not guessed at.
const checkpointFormat = 1

// Checkpoint says that at Time the log had the entry Seq, with that hash. It is signed and kept away from the log, so that
// a cut tail, or entries rewritten with all hashes behind them, are found from the outside.
type Checkpoint struct {
	Format int       `json:"format"`
	Log    string    `json:"log"` // hash of the log's first entry
	Seq    int64     `json:"seq"`
	Hash   string    `json:"hash"`
	Time   time.Time `json:"time"`  // the signer's clock
	Start  Start     `json:"start"` // where the log begins, once old files were removed; the zero value is its first entry
	Prev   string    `json:"prev"`  // hex SHA-256 of the envelope of the checkpoint before; 64 zeros for the first
}

// Start is the last entry that retention has removed.
type Start struct {
	Seq  int64  `json:"seq"`
	Hash string `json:"hash"`
}

// envelope is a DSSE envelope (https://github.com/secure-systems-lab/dsse, version 1.0.2).
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"` // base64
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"` // base64
}

// preAuthEncoding is what a DSSE signature is over.
func preAuthEncoding(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// KeyID names a public key for people: the first 16 hex digits of the SHA-256 of its PKIX form.
func KeyID(key ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8])
}

// sign makes the envelope of c.
func sign(c Checkpoint, key ed25519.PrivateKey) ([]byte, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("audit: encode checkpoint: %w", err)
	}
	public, _ := key.Public().(ed25519.PublicKey)
	data, err := json.Marshal(envelope{
		PayloadType: payloadType, Payload: payload,
		Signatures: []signature{{KeyID: KeyID(public), Sig: ed25519.Sign(key, preAuthEncoding(payloadType, payload))}},
	})
	if err != nil {
		return nil, fmt.Errorf("audit: encode checkpoint: %w", err)
	}
	return append(data, '\n'), nil
}

// openEnvelope reads a checkpoint that one of keys has signed. With no keys the signature is not looked at.
func openEnvelope(data []byte, keys []ed25519.PublicKey) (Checkpoint, error) {
	var e envelope
	var c Checkpoint
	if err := json.Unmarshal(data, &e); err != nil || e.PayloadType != payloadType {
		return c, errors.New("it is no signed checkpoint")
	}
	good := len(keys) == 0
	for _, s := range e.Signatures {
		for _, key := range keys {
			good = good || ed25519.Verify(key, preAuthEncoding(e.PayloadType, e.Payload), s.Sig)
		}
	}
	if !good {
		return c, errors.New("no key that is trusted here has signed it")
	}
	if err := json.Unmarshal(e.Payload, &c); err != nil {
		return c, errors.New("its content is no checkpoint's")
	}
	if c.Format != checkpointFormat {
		return c, fmt.Errorf("its format is %d and this program knows format %d", c.Format, checkpointFormat)
	}
	if c.Seq < 1 || len(c.Hash) != hashLength || len(c.Log) != hashLength {
		return c, errors.New("its content is no checkpoint's")
	}
	return c, nil
}

func envelopeDigest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Shelf is where signed checkpoints are kept, away from the log: a bucket, best under object lock.
type Shelf struct {
	// List gives the envelopes of a log with a sequence number above after, ascending by it.
	List func(ctx context.Context, log string, after int64) ([][]byte, error)
	// Add puts an envelope durably where there is none; it never replaces one. After an error it may be there all the same.
	Add func(ctx context.Context, log string, seq int64, envelope []byte) error
}

// Names of the lock that signers take, and of the last checkpoint that this directory has published: a hint that
// saves listing all of them, never believed where the shelf says otherwise.
const (
	checkpointLock = "checkpoint.lock"
	checkpointHint = "checkpoint.json"
)

// Checkpoint signs the log's newest entry and puts it on the shelf. Where the newest checkpoint there is of that very entry,
// it gives that one. ok is false if the log has no entry yet. ErrForked if the shelf knows of entries that the log does not have.
//
// A crash between the shelf and the hint leaves a checkpoint that the next one finds by listing.
func (l *Log) Checkpoint(ctx context.Context, key ed25519.PrivateKey, shelf Shelf) (c Checkpoint, ok bool, err error) {
	return l.checkpoint(ctx, key, shelf, Start{})
}

func (l *Log) checkpoint(ctx context.Context, key ed25519.PrivateKey, shelf Shelf, start Start) (c Checkpoint, ok bool, err error) {
	lock, err := filelock.Exclusive(ctx, filepath.Join(l.dir, checkpointLock))
	if err != nil {
		return c, false, fmt.Errorf("audit: %w", err)
	}
	defer lock.Unlock()
	last, err := l.last(ctx)
	if err != nil || last.seq == 0 {
		return c, false, err
	}
	hint := l.readHint()
	origin := hint.Log
	if origin == "" {
		if origin, err = logID(l.dir); err != nil {
			return c, false, err
		}
	}
	newest, before, err := newestOn(ctx, shelf, origin, hint)
	if err != nil {
		return c, false, err
	}
	if start.Seq < newest.Start.Seq {
		start = newest.Start
	}
	switch {
	case newest.Seq > last.seq:
		return c, false, fmt.Errorf("%w: entry %d was signed at %s, and the log ends with entry %d", ErrForked, newest.Seq, newest.Time.Format(time.RFC3339), last.seq)
	case newest.Seq == last.seq && newest.Hash != last.hash:
		return c, false, fmt.Errorf("%w: entry %d is another one than was signed at %s", ErrForked, newest.Seq, newest.Time.Format(time.RFC3339))
	case newest.Seq == last.seq && newest.Start == start:
		return newest, true, nil
	case newest.Seq == last.seq:
		return c, false, fmt.Errorf("audit: another process signed entry %d meanwhile; try again", last.seq)
	}
	if hash, err := l.hashOf(newest.Seq); err != nil {
		return c, false, err
	} else if newest.Seq > 0 && hash != newest.Hash {
		return c, false, fmt.Errorf("%w: entry %d is another one than was signed at %s", ErrForked, newest.Seq, newest.Time.Format(time.RFC3339))
	}
	c = Checkpoint{Format: checkpointFormat, Log: origin, Seq: last.seq, Hash: last.hash,
		Time: time.Now().UTC().Truncate(time.Second), Start: start, Prev: before}
	data, err := sign(c, key)
	if err != nil {
		return c, false, err
	}
	if err := addTo(ctx, shelf, c, data); err != nil {
		return c, false, err
	}
	return c, true, l.writeHint(hintData{Log: origin, Seq: c.Seq})
}

// hashOf looks from the end for the entry of a sequence number, which is seldom far; "" if it is not there.
func (l *Log) hashOf(seq int64) (hash string, err error) {
	if seq == 0 {
		return "", nil
	}
	unlock, err := shared(context.Background(), l.dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	numbers, err := fileNumbers(l.dir)
	if err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	done := false
	for _, number := range slices.Backward(numbers) {
		err := tailFile(filePath(l.dir, number), func(e Entry) bool {
			if e.Seq == seq {
				hash = e.Hash
			}
			done = e.Seq <= seq
			return !done
		})
		if err != nil {
			return "", fmt.Errorf("audit: %s: %w", fileName(number), err)
		}
		if done {
			break
		}
	}
	return hash, nil
}

// addTo puts an envelope on the shelf. When the answer got lost, it looks.
func addTo(ctx context.Context, shelf Shelf, c Checkpoint, data []byte) error {
	err := shelf.Add(ctx, c.Log, c.Seq, data)
	if err == nil {
		return nil
	}
	found, lerr := shelf.List(ctx, c.Log, c.Seq-1)
	if lerr != nil || len(found) == 0 {
		return fmt.Errorf("audit: the checkpoint of entry %d could not be stored: %w", c.Seq, err)
	}
	if bytes.Equal(found[0], data) {
		return nil
	}
	return fmt.Errorf("%w: somebody else stored a checkpoint of entry %d: %w", ErrForked, c.Seq, err)
}

// newestOn finds the newest checkpoint of a log, and the digest of its envelope.
func newestOn(ctx context.Context, shelf Shelf, origin string, hint hintData) (newest Checkpoint, digest string, err error) {
	digest = genesis
	found, err := shelf.List(ctx, origin, max(hint.Seq-1, 0))
	if err == nil && len(found) == 0 && hint.Seq > 0 { // the one that the hint names is gone: Verify will say so
		found, err = shelf.List(ctx, origin, 0)
	}
	if err != nil {
		return newest, "", fmt.Errorf("audit: the checkpoints cannot be listed: %w", err)
	}
	if len(found) == 0 {
		return newest, digest, nil
	}
	data := found[len(found)-1]
	if newest, err = openEnvelope(data, nil); err != nil {
		return newest, "", fmt.Errorf("%w: its newest checkpoint cannot be read: %w", ErrForked, err)
	}
	return newest, envelopeDigest(data), nil
}

// hintData is what checkpointHint holds.
type hintData struct {
	Log string `json:"log"`
	Seq int64  `json:"seq"`
}

func (l *Log) readHint() (h hintData) {
	data, err := os.ReadFile(filepath.Join(l.dir, checkpointHint))
	if err != nil || json.Unmarshal(data, &h) != nil {
		return hintData{}
	}
	return h
}

func (l *Log) writeHint(h hintData) error {
	data, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("audit: encode: %w", err)
	}
	path := filepath.Join(l.dir, checkpointHint)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("audit: the checkpoint is stored, but not noted: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("audit: the checkpoint is stored, but not noted: %w", err)
	}
	return nil
}

// last is the end of the log as it is now, whoever wrote it.
func (l *Log) last(ctx context.Context) (end, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return end{}, ErrClosed
	}
	lock, err := l.lock(ctx)
	if err != nil {
		return end{}, err
	}
	defer lock.Unlock()
	if err := l.refresh(); err != nil {
		return end{}, err
	}
	return l.end, nil
}

// logID is the hash of the log's first entry, as the first file has it, or the entry that says that it was removed.
func logID(dir string) (string, error) {
	report, err := Verify(dir)
	if err != nil {
		return "", err
	}
	if report.Log == "" {
		return "", fmt.Errorf("%w: its beginning cannot be read; run audit verify", ErrDamaged)
	}
	return report.Log, nil
}

// NewKey makes an Ed25519 key, and writes it to path (PKCS #8 in PEM, mode 0600). It replaces no file.
func NewKey(path string) (ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("audit: make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("audit: encode the key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: the key is not written: %w", err)
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("audit: the key is not written: %w", err), os.Remove(path))
	}
	return public, nil
}

// ReadKey reads a key as NewKey wrote it. It refuses (ErrKey) a file that others may read.
func ReadKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w; make one with: tablexport audit keygen %s", ErrKey, err, path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if othersMayRead(info) {
		return nil, fmt.Errorf("%w: others may read %s; close it with: chmod 600 %s", ErrKey, path, path)
	}
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: %s holds no Ed25519 key", ErrKey, path)
	}
	return key, nil
}

// EncodePublicKey gives a public key in PEM.
func EncodePublicKey(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("audit: encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ReadPublicKey reads a public key in PEM.
func ReadPublicKey(path string) (ed25519.PublicKey, error) {
	der, err := readPEM(path, "PUBLIC KEY")
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	key, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%w: %s holds no public Ed25519 key", ErrKey, path)
	}
	return key, nil
}

func readPEM(path, kind string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	defer clear(data)
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%w: %s must hold a %s in PEM form", ErrKey, path, kind)
	}
	return block.Bytes, nil
}

// expiry of an entry "expire": where the log begins once the files before are gone.
const (
	actionExpire  = "expire"
	detailLog     = "log"
	detailThrough = "through"
	detailHash    = "hash"
)

// Expire removes files whose entries are all older than before, oldest first; never the last file, and never an entry that
// key has not signed. An entry "expire" and a checkpoint that names the log's new start come first, so that whoever verifies
// can tell removal by retention from removal by somebody else. It returns how many files were removed.
//
// A crash leaves the entry and some of the files: the log verifies, and the next call removes the rest.
func (l *Log) Expire(ctx context.Context, before time.Time, key ed25519.PrivateKey, shelf Shelf) (removed int, err error) {
	numbers, last, err := l.expired(before)
	if err != nil || len(numbers) == 0 {
		return 0, err
	}
	if _, _, err := l.Checkpoint(ctx, key, shelf); err != nil {
		return 0, err
	}
	origin := l.readHint().Log
	if origin == "" {
		if origin, err = logID(l.dir); err != nil {
			return 0, err
		}
	}
	_, err = l.Append(ctx, Entry{Actor: "tablexport", Action: actionExpire, Subject: fileName(numbers[len(numbers)-1]), Outcome: OK,
		Detail: map[string]string{
			detailLog: origin, detailThrough: strconv.FormatInt(last.Seq, 10), detailHash: last.Hash,
			"files": strconv.Itoa(len(numbers)), "newest": last.Time.Format(time.RFC3339)}})
	if err != nil {
		return 0, err
	}
	if _, _, err := l.checkpoint(ctx, key, shelf, Start{Seq: last.Seq, Hash: last.Hash}); err != nil {
		return 0, err
	}
	lock, err := l.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer lock.Unlock()
	for _, number := range numbers {
		if err := os.Remove(filePath(l.dir, number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("audit: %w", err)
		}
		removed++
	}
	return removed, syncDir(l.dir)
}

// expired lists the files that may go, and the last entry of the last of them.
func (l *Log) expired(before time.Time) (numbers []int, last Entry, err error) {
	all, err := fileNumbers(l.dir)
	if err != nil {
		return nil, last, fmt.Errorf("audit: %w", err)
	}
	for _, number := range all[:max(0, len(all)-1)] {
		found, e, err := readFileEnd(l.dir, number)
		if err != nil {
			return nil, last, err
		}
		// A torn end is described by a marker in the next file only if it is empty of entries; such files stay.
		if e == nil || found.torn < found.size || !e.Time.Before(before) {
			break
		}
		numbers, last = append(numbers, number), *e
	}
	return numbers, last, nil
}
