"""How Sphinx renders the pages; build.py says where they are."""
project = html_title = 'dd_repro'
author = 'dd_repro founders'
copyright = f'2026 onwards, {author}'
extensions = ['myst_nb']
nb_execution_mode = 'off'
nb_output_stderr = 'remove'
nb_merge_streams = True
nb_render_markdown_format = 'myst'
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence', 'deflist']
myst_dmath_double_inline = True
myst_heading_anchors = 4
myst_url_schemes = {'http': None, 'https': None, 'mailto': None, 'page': {'url': '{{path}}'}, 'spot': {'url': '{{path}}#{{fragment}}'}}
mathjax_path = 'mathjax/tex-svg-full.js'
html_theme = 'sphinx_book_theme'
html_css_files = ['site.css']
html_js_files = ['sort.js']
html_copy_source = html_show_sourcelink = False
html_use_index = False
html_show_search_summary = False  # summaries are fetched, which pages opened from a disk may not do
html_context = {'default_mode': 'auto'}
html_theme_options = dict(
    navbar_persistent=[], extra_footer='', footer_content_items=['copyright.html'],
    show_toc_level=2, use_download_button=False, use_fullscreen_button=False, use_repository_button=False,
    # notebooks of tables have no list of sections beside them: a table of twelve columns takes that room
    secondary_sidebar_items={'[!45]*': ['page-toc.html'], '5[!0]*': ['page-toc.html']},
    show_navbar_depth=1, home_page_in_toc=True, pygments_light_style='friendly', pygments_dark_style='github-dark')
suppress_warnings = ['mystnb.unknown_mime_type', 'mystnb.mime_priority', 'config.cache']
