package timeline

import (
	"slices"
	"testing"
)

// TestWordsWithoutSpaces: Chinese, Japanese and Thai are found in the middle, and where Latin letters follow them.
func TestWordsWithoutSpaces(t *testing.T) {
	for _, test := range []struct {
		text, term string
		found      bool
	}{
		{"明日東京タワーで会いましょう", "東京", true},
		{"明日東京タワーで会いましょう", "タワー", true},
		{"明日東京タワーで会いましょう", "京都", false},
		{"我们明天在北京开会", "北京", true},
		{"我们明天在北京开会", "北京 明天", true},
		{"我们明天在北京开会", "上海", false},
		{"พรุ่งนี้ประชุมที่กรุงเทพ", "ประชุม", true},
		{"新しいserverです", "server", true},
		{"新しいserverです", "serverです", true},
		{"ｻｰﾊﾞｰの設定", "ﾊﾞｰ", true},
		{"サバーの設定", "サーバ", false},
		{"ｻﾊﾞｰの設定", "ｻｰﾊﾞ", false},
		{"unhappy", "happy", false},
		{"happiness", "happi", true},
		{"Café brûlé", "brûl", true},
	} {
		if got := rankOf(test.text, wordsOf(test.term)) > 0; got != test.found {
			t.Errorf("%q in %q: %v", test.term, test.text, got)
		}
	}
	if got := split("a東b-c"); !slices.Equal(got, []string{"a", "東", "b", "c"}) {
		t.Errorf("got %q", got)
	}
}
