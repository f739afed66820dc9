"""Every set of the list of public sets: read by auto and by name, drawn, students trained, written in each form and read back. A row for each set: accuracy of a short
training, and the number of forms that came back equal (the script ends with an error where one does not)."""
from functools import cache
from study import *

ROW, WIDTH, EPOCHS, LR, KIND = 'score/public', 32, 100, .01, 'reduced'
BITS8 = ('folder', 'parquet') # forms of 8 bits a value
ENDS = dict(npz='.npz', torch='.pt', parquet='.parquet')

@cache
def cached(data, white, root): return load(data, zca=white, root=root)

def read(o, p, real):
    "A set by its name, and by auto and by form; the three must be one."
    lr = {} if p.lr or p.lr_from == 'learned' else dict(lr=LR) # in no file
    d = load_set(p.name, o.data, real=real, quiet=True, **lr)
    for form in ('auto', p.form):
        e = import_set(fetch_set(p.name, o.data), form, real, quiet=True, **lr)
        assert torch.equal(e.images, d.images) and torch.equal(e.y, d.y) and e.info['imported']['public'] == p.name, (p.name, form)
    return d

def fits(d, form):
    "Can a form take this set? DATM's has learned labels, DD-Ranking's as many images of each class."
    hard = d.y if d.y.ndim == 1 else d.y.argmax(1)
    level = len(set(hard.bincount(minlength=d.n_classes).tolist())) == 1
    return dict(datm=d.y.ndim == 2, ddranking=level).get(form, True)

def equal(d, back, form):
    "Is a set that was read back the one that was written, class by class, as far as its form can hold it?"
    hard = d.y if d.y.ndim == 1 else d.y.argmax(1)
    at = hard.argsort(stable=True)
    same = torch.equal(back.images, Sheet(d).bytes() if form in BITS8 else d.images[at])
    labels = torch.allclose(back.y, d.y[at], atol=1e-6) if back.y.ndim == d.y.ndim == 2 else torch.equal(back.y, hard[at])
    return same and labels and back.student_lr.item() == d.student_lr.item() and back.classes == d.classes

def there_and_back(d, folder):
    "Names of the forms that came back equal; AssertionError where one did not."
    forms = [k for k, f in FORMS.items() if f.write and fits(d, k)]
    for k in forms:
        back = import_set(export_set(d, folder/f'{k}{ENDS.get(k, "")}', k, quiet=True), quiet=True)
        assert equal(d, back, k), k
    return forms

def judged(o, p, real, test):
    "One set: drawn, students, forms; two rows."
    d = read(o, p, real)
    with tempfile.TemporaryDirectory() as tmp:
        d.png(Path(tmp)/'grid.png')
        forms = there_and_back(d, Path(tmp))
    proto = as_protocol(d.protocol).scaled(kind=KIND, epochs=EPOCHS)
    arch = dict(name='convnet', n_in=3, n_out=d.n_classes, size=32, width=WIDTH, depth=3)
    more = '' if p.lr or p.lr_from == 'learned' else f'; student rate {LR:g}, in no file'
    r = students(d, test, (arch,), proto, 1, row=f'{ROW}/{p.name}', method=p.method, deviations=f'ConvNet width {WIDTH} (128); one network{more}')
    put(o, [r, dataclasses.replace(r, metric='forms', unit='1', mean=float(len(forms)), std=float('nan'), last=float('nan'), deviations=f'{r.deviations}; {", ".join(forms)}')])

if __name__ == '__main__':
    o = begin(__doc__, 'score', data=dict(nargs='?', type=Path, help='folder of data sets, with published/ (default: DD_DATA)'))
    done = {r.row for r in read_rows(o.csv)}
    todo = [p for p in public_sets().values() if f'{ROW}/{p.name}' not in done]
    if o.smoke: todo, EPOCHS, KIND = [p for p in todo if p.name == 'dc/cifar10/ipc1'], 1, 'smoke'
    for p in todo:
        white = p.norm == 'zca'
        real = cached(p.data, white, o.data)
        if not (white or p.norm == 'kip'): # the norm of its authors' code
            norm = load_set(p.name, o.data, quiet=True, **({} if p.lr else dict(lr=LR))).norm
            real = [s.renorm(norm) for s in real]
        judged(o, p, *real)
