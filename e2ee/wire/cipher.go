package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

const (
	// KeySize is the length in bytes of every key and chain value.
	KeySize = 32
	// MACSize is the length in bytes to which the ciphers of version 1 truncate their MAC.
	MACSize = 8
)

// ErrMAC says that a message was not made with this key, or was changed on its way.
var ErrMAC = errors.New("the message authentication code does not match")

// Cipher encrypts and authenticates exactly one message: its initialization vector is part of its key.
type Cipher struct {
	aes, mac [KeySize]byte
	iv       [aes.BlockSize]byte
}

// NewCipher derives a cipher from a secret. The info names the use: OLM_KEYS, MEGOLM_KEYS, or nothing for backups.
func NewCipher(secret []byte, info string) *Cipher {
	okm := Derive(secret, nil, info, 2*KeySize+aes.BlockSize)
	c := &Cipher{}
	copy(c.aes[:], okm)
	copy(c.mac[:], okm[KeySize:])
	copy(c.iv[:], okm[2*KeySize:])
	return c
}

// Derive is HKDF-SHA-256; no salt means a salt of 32 zeros.
func Derive(secret, salt []byte, info string, length int) []byte {
	okm, err := hkdf.Key(sha256.New, secret, salt, info, length)
	if err != nil {
		// The only errors are lengths over 255 blocks, and every length here is a small constant.
		panic(fmt.Sprintf("deriving %d bytes: %v", length, err))
	}
	return okm
}

// Encrypt is AES-256-CBC with PKCS#7 padding.
func (c *Cipher) Encrypt(plaintext []byte) []byte {
	pad := aes.BlockSize - len(plaintext)%aes.BlockSize
	out := make([]byte, len(plaintext)+pad)
	copy(out, plaintext)
	for i := len(plaintext); i < len(out); i++ {
		out[i] = byte(pad)
	}
	cipher.NewCBCEncrypter(c.block(), c.iv[:]).CryptBlocks(out, out)
	return out
}

// Decrypt undoes Encrypt. It must be called only after CheckMAC, since what it says about the padding
// would otherwise help an attacker.
func (c *Cipher) Decrypt(ciphertext []byte) ([]byte, error) {
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("%w: the ciphertext is not a number of whole blocks", ErrMalformed)
	}
	out := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(c.block(), c.iv[:]).CryptBlocks(out, ciphertext)
	pad := int(out[len(out)-1])
	if pad == 0 || pad > aes.BlockSize {
		return nil, fmt.Errorf("%w: bad padding", ErrMalformed)
	}
	for _, b := range out[len(out)-pad:] {
		if int(b) != pad {
			return nil, fmt.Errorf("%w: bad padding", ErrMalformed)
		}
	}
	return out[:len(out)-pad], nil
}

// MAC is the truncated HMAC-SHA-256 of a message.
func (c *Cipher) MAC(message []byte) []byte {
	return HMAC(c.mac[:], message)[:MACSize]
}

// CheckMAC compares in constant time.
func (c *Cipher) CheckMAC(message, mac []byte) error {
	if !hmac.Equal(c.MAC(message), mac) {
		return ErrMAC
	}
	return nil
}

func (c *Cipher) block() cipher.Block {
	block, err := aes.NewCipher(c.aes[:])
	if err != nil {
		panic(fmt.Sprintf("a key of %d bytes: %v", len(c.aes), err)) // the length is fixed by its type
	}
	return block
}

// HMAC is HMAC-SHA-256.
func HMAC(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}
