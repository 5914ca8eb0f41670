package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Digest is the SHA-256 of the file as it was read, in hex.
func (c *Config) Digest() string {
	sum := sha256.Sum256([]byte(strings.Join(c.lines, "\n")))
	return hex.EncodeToString(sum[:])
}

// Flatten gives every value of the configuration by its key ("jobs.orders.table"), defaults included; what is not set is
// left out. It is for comparing two configurations.
func (c *Config) Flatten() map[string]string {
	all := map[string]string{}
	flatten(reflect.ValueOf(*c), "", all)
	return all
}

func flatten(v reflect.Value, key string, into map[string]string) {
	if d, ok := v.Interface().(Duration); ok {
		if d != 0 {
			into[key] = time.Duration(d).String()
		}
		return
	}
	below := func(name string) string {
		if key == "" {
			return name
		}
		return key + "." + name
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			flatten(v.Elem(), key, into)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if name != "" && name != "-" {
				flatten(v.Field(i), below(name), into)
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			flatten(v.MapIndex(k), below(k.String()), into)
		}
	case reflect.Slice:
		for i := range v.Len() {
			flatten(v.Index(i), fmt.Sprintf("%s[%d]", key, i), into)
		}
	default:
		if !v.IsZero() {
			into[key] = fmt.Sprint(v.Interface())
		}
	}
}
