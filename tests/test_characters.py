"""Counting code: what is counted, and what is not."""
import pytest
import characters as C

CODE = '''"A module."
# %% auto
__all__ = ['f', 'g']
# %% cell
@patch
def f(self:K, a, b=2): # a comment
    "What it does."
    return a + b

g = lambda x: x*2 # another
class K:
    "A class."
    def m(self): return 'm'
'''

def test_tokens_are_counted_and_words_about_them_are_not():
    assert C.characters('x = 1 # one\n\n"a text"\n') == {'*': len('x=1"atext"') + 1}
    assert C.characters(CODE, 'g') == {'g': len('g=lambdax:x*2')}
    assert C.characters(CODE, 'K.f') == {'K.f': len('@patchdeff(self:K,a,b=2):returna+b')}
    assert C.characters(CODE, 'K.m') == {'K.m': len("defm(self):return'm'")}

def test_a_module_is_the_sum_of_its_parts():
    parts = C.characters(CODE, 'K.f g K')
    assert C.characters(CODE)['*'] == sum(parts.values())

@pytest.mark.parametrize('a, b', [('x = 1; y = 2', 'x = 1\ny = 2'), ('f(a, b)', 'f(a,\n  b)'),
                                  ('if x: y = 1', 'if x:\n        y = 1'), ('é = 1', 'é  =  1')])
def test_where_lines_break_does_not_matter(a, b):
    one, two = (C.characters(t)['*'] for t in (a, b))
    assert one - a.count(';') == two

def test_letters_of_more_than_a_byte_move_nothing():
    assert C.characters("s = 'éé'; t = 1\nu = 2\n", 't u') == {'t': 3, 'u': 3}

def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match='not defined: h'): C.characters(CODE, 'g h')

def test_what_is_listed_for_this_tree_is_there():
    assert all(n > 0 for n in C.counted(C.NOW).values())

def test_the_report_has_the_ratio():
    lines = C.report({('a', '*'): 100, ('b', 'f'): 100}, {('a', '*'): 50, ('c', '*'): 90})
    assert lines[-1] == 'ratio 0.700 (goal: at most 0.7, 140 characters)' and len(lines) == 6

def test_the_house_is_measured():
    text = f'# %% auto\n{"x"*101}\n# %% cell\n{"y"*101}\na = 1; b = 2\nif a: b = 3\n'
    text += 'class K:\n    def f(self, a, b, c, d, e, f, g, *, h, **kw): "syn_steps"\n'
    text += f'def g({", ".join("abcdefghi")}): return syn_steps\n'
    assert C.long_lines(text) == (1, 1) and C.joined(text) == 1 and C.places(text, 'syn_steps') == 1
    assert C.wide(text) == [(9, 9, 'g')]
    assert C.house(dict(m=text))[0] == 'functions with more than 8 parameters: 1 (1 without _)'
